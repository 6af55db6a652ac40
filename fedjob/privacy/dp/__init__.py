"""Differential privacy: what noise costs and what it is worth, before anything is computed."""
