"""`verbatim watch`: the simulator's verdict before another server, or before recordings of one."""
