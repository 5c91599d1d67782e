"""A sealed folder: its manifest, what is in it, whose it is, whether it is whole, what is installed from it.

Bundles and installations are such folders. Never here: how one is made, how one is installed, anything that
is not in the standard library; install.pyz carries these modules to a machine where nothing is installed yet.
"""
