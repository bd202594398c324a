"""Problems as prompts, and graded answers to them."""
