"""The encryption between parties: objects in chunks, and small bytes to the holder of a key."""
