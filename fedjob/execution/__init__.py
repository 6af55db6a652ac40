"""One node's share of one ask, in whatever process it runs."""
