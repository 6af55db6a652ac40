"""Aggregators that bound the influence of a node."""
