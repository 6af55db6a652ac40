"""Datasets at a node: readers of files, the choice of items for a job, and preprocessing."""
