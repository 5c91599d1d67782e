"""Injects faults under load: what is lost, what is wrong, what is left over."""
