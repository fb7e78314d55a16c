"""OCI: the specifications as values. No I/O."""
