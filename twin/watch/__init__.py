"""`verbatim watch`: the eyes of the simulator before another server, or before recordings of one."""
