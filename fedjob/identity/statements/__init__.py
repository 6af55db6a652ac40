"""Signed statements of a federation: its keys, its roster, and the new keys of its parties."""
