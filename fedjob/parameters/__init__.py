"""Named tensors and the files that hold them."""
