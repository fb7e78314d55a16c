"""Runtime: the OCI runtime. Other engines enter at `main`, our own at `creation` and `operations`."""
