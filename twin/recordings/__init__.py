"""Recordings: exchanges with a server as readable files, found again by the request."""
