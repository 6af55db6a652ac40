"""The commands of who coordinates a federation: its keys, its roster, and who is revoked."""
