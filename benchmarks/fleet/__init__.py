"""Simulated engines in virtual time: the effects of a router are seen within seconds."""
