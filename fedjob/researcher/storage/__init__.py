"""A job on disk: one class owns every file name."""
