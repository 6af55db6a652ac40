"""Statistics with differential privacy of records: sums of whole numbers, each with noise of the node that adds it."""
