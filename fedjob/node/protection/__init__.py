"""The protection of what a node contributes: it leaves inside a secure sum only."""
