"""Engines on the nodes of a Ray cluster: their actors, and how front ends reach them."""
