"""Sealing for one party: the hybrid encryption and the keys that it is done with."""
