"""The real engine, and everything that knows vLLM: its process, sockets, messages and metrics."""
