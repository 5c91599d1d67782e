"""Exchanges with a server as files that people read: written, found again by what is asked."""
