"""API keys and limits: who may send requests, and how many. Of HTTP only the text of
the Authorization header."""
