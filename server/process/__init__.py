"""The processes of a server: the one that runs the engines, its port, and its workers. Nothing here
looks at requests."""
