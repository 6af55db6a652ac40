"""The option that every command of the researcher takes."""

from __future__ import annotations

from pathlib import Path

import click

HOME = click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="The researcher's home.")
