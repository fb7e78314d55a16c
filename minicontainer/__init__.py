"""minicontainer: a container runtime, an image builder and an engine. It knows nothing of miniecs."""
