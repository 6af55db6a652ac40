"""The version of fedjob, as `setup.cfg` says it, and which others it works with."""

__version__ = "0.1.0"


def series_of(version: str) -> str:
    """Return the part of a version in which all work together: `0.1` of 0.1.0, from 1.0 on `1` of 1.4.2."""
    major, _, rest = version.partition(".")
    return f"{major}.{rest.partition('.')[0]}" if major == "0" else major
