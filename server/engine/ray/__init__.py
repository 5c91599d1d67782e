"""Engines on the nodes of a Ray cluster: the actors there, and how a front end hears of them."""
