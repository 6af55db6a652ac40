"""Build the site into build/docs: run the notebooks that are due, then mkdocs, strictly. `make docs` calls it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

from docs.site import notebooks
from docs.site.links import ROOT

os.environ.setdefault("NO_MKDOCS_2_WARNING", "true")  # an advertisement of the theme's, in every build


def build(to: str | None = None) -> None:
    """Build the pages, with the outputs of the notebooks' newest runs.

    Args:
        to: folder of the site; build/docs without it.

    Raises:
        mkdocs.exceptions.Abort: a link, an anchor, a name or the navigation is wrong; each is logged.
    """
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    config = load_config(str(ROOT / "mkdocs.yml"), **({"site_dir": to} if to else {}))
    config.plugins.on_startup(command="build", dirty=False)
    try:
        mkdocs_build(config)
    finally:
        config.plugins.on_shutdown()


def main() -> None:
    """Build the site and say where it is and how long it took."""
    parser = argparse.ArgumentParser(prog="make docs", description=__doc__)
    parser.add_argument("--to", help="folder of the site, build/docs without it")
    parser.add_argument(
        "--no-notebooks", action="store_true", help="run no notebook: show the runs that are there"
    )
    given = parser.parse_args()
    began = time.monotonic()
    if not given.no_notebooks:
        notebooks.run_all()
    build(given.to)
    where = given.to or ROOT / "build" / "docs"
    print(f"{where}/index.html, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
