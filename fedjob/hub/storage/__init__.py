"""Objects, parties and the database of a hub, on disk."""
