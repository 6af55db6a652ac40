"""The entry point of `python -m fedjob.hub`, which runs the command `fedjob hub`."""

from __future__ import annotations

from fedjob.common.console import run_command_line
from fedjob.hub.cli import hub

if __name__ == "__main__":
    run_command_line(hub, prog_name="fedjob hub")
