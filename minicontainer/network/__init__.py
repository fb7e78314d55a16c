"""minicontainer.network.bridge: a network for a container: a `bridge` as root, `slirp` without."""
