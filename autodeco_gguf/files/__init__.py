"""Files as bytes: written atomically, read without trust, continued after a kill. Knows no model."""
