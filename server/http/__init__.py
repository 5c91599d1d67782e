"""HTTP: routes, errors as bodies, bytes, streams. Nothing here knows how an engine works."""
