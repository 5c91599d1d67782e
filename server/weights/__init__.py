"""Model directories: what is in one, whether it is whole, and the one that comes with the server.

Never loaded here.
"""
