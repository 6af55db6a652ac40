"""The node's daemon: a loop that collects what is to do, commits it, and then acts."""
