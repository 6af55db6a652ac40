"""Health and metrics of a node, on this machine's loopback."""
