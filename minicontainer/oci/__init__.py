"""The OCI specifications as values. No I/O."""
