"""Linux: the kernel as Python functions. Knows nothing of containers."""
