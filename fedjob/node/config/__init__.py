"""The settings that a node's owner makes."""
