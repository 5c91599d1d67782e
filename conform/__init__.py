"""Tests any completions server against the rules of the contract that a client can see. It uses nothing of
our server."""
