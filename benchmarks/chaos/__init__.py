"""Faults by chance under load: what is lost, what is wrong, what is left."""
