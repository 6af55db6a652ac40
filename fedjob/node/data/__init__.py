"""The datasets that a node's owner registered, and what was done with them."""
