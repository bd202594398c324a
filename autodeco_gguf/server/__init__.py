"""A server of OpenAI's and Ollama's HTTP APIs over one engine."""
