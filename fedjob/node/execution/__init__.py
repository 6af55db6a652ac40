"""Worker processes, and what goes in and out of them."""
