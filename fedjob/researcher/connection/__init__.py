"""A connection to a federation."""
