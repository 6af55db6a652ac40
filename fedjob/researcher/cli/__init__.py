"""The researcher's commands. None of them imports torch before it is needed."""
