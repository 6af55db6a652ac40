"""Datasets: read, chosen, prepared."""
