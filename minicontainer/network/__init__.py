"""Network: what joins a container to others: a `bridge` as root, `slirp` without."""
