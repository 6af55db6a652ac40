"""The queue of tasks: a pure core and its rows."""
