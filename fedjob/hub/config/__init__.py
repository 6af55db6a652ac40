"""File names and limits of a hub's home."""
