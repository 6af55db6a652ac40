"""Simulation: many nodes on one machine, computed by a pool of worker processes."""
