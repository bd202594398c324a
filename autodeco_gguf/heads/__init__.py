"""AutoDeco heads: their weights, the files that hold them, and what computes them."""
