"""`verbatim complete`, a client like any other: nothing here is shared with the server."""
