"""The best way to decode for a model and tasks of one's own, found within so many minutes."""
