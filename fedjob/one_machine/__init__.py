"""A whole federation on one machine: hub and nodes as processes of this one, in a folder that goes with them."""
