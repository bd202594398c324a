"""One model over several machines: llama.cpp's RPC."""
