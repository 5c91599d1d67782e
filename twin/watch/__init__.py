"""`verbatim watch`: the simulator's verdict for clients of another server, or of its recordings."""
