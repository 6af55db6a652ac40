"""Scripts that measure; `compare` is a package of its own, run by `make compare`."""
