"""The version of fedjob, as `setup.cfg` says it."""

__version__ = "0.1.0"
