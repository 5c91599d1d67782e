"""The real engine, and all that knows vLLM: its process, its sockets, its messages, its metrics."""
