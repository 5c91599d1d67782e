"""An engine that invents tokens, with the same protocol as the real one."""
