"""Survival: curves of the time to an event."""
