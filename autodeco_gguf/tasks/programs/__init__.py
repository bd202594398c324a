"""Programs that a model wrote: their tests, and where they run."""
