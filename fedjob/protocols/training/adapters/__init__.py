"""Protocols that train low-rank adapters of a frozen model, whose ranks may differ from node to node."""
