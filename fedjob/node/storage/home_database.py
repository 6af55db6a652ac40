"""The database of a node's home, open for one act of its owner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedjob.node.config.home import NodeHome
from fedjob.node.storage.database import Database


@contextmanager
def open_database(home: NodeHome) -> Iterator[Database]:
    """Open the database of a node's home for a block.

    Raises:
        ConfigError: it is no node's home.
    """
    home.check()
    database = Database(home.database)
    try:
        yield database
    finally:
        database.close()
