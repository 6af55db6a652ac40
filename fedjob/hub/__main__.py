"""The entry point of `python -m fedjob.hub`, which runs the command `fedjob hub`."""

from __future__ import annotations

from fedjob.hub.cli import hub

if __name__ == "__main__":
    hub(prog_name="fedjob hub")
