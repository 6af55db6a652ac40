"""Secure aggregation: the sum of what nodes contribute, and no single contribution."""
