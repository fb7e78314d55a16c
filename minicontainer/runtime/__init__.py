"""minicontainer.runtime.creation: the OCI runtime. Engines enter at `main`, our own at `creation` and `operations`."""
