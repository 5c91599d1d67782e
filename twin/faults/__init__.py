"""Faults on demand: what each does to a reply or to connections, and the rules by which it comes."""
