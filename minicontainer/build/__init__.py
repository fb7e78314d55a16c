"""Build: a Dockerfile to an OCI image. People enter at `command`, programs at `builder`."""
