"""Image: what an image is on the disk and in an archive: layers and a store. Enter at `images`."""
