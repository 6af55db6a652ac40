"""Certain delivery of small facts over an unreliable broker."""
