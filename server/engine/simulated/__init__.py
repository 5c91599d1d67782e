"""An engine that makes tokens up, by the same protocol as the real one."""
