"""The message broker as a child process of the hub."""
