"""A model in llama.cpp, and tokens drawn from it."""
