"""The page of a node's owner in a browser; whatever it shows or does, a command shows or does too."""
