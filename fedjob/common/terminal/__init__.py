"""The face of the command lines in a terminal and in a pipe."""
