"""Hooks for services that keep track of experiments."""
