"""Training heads on a GGUF: llama.cpp yields hidden states and logits, torch trains the heads."""
