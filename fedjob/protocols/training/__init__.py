"""Iterative training."""
