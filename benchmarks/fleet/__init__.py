"""Engines that compute nothing, in a time of their own: what a router does is seen in seconds."""
