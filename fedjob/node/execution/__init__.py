"""The worker processes of a node, their inputs and their outputs."""
