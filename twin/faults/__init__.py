"""Faults on demand: what each does to a reply or a connection, and the rules that decide when it happens."""
