"""One loop: turn, commit, act."""
