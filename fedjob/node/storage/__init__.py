"""A node's database, spool, audit chain and logs, on disk."""
