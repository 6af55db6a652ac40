"""The owner's consent."""
