"""Between a connection and a generation: routes, errors as bodies, bytes, streams.

No engine's inner workings.
"""
