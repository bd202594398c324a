"""IFBench: responses to prompts with instructions that programs check."""
