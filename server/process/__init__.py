"""The processes of a server: the port, the one that runs the engines, the workers beside it.

No request is looked at.
"""
