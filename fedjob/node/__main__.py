"""The node's command line as a program: `python -m fedjob.node` does what `fedjob node` does."""

from __future__ import annotations

from fedjob.common.console import run_command_line
from fedjob.node.cli import node

if __name__ == "__main__":
    run_command_line(node, prog_name="fedjob node")
