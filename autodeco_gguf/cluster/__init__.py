"""Models on the nodes of a Ray cluster, asked from one process."""
