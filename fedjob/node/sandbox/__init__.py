"""The sandbox around worker processes: what the kernel closes before any user code runs."""
