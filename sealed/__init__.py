"""A sealed folder: its manifest, its contents, its signatures, its integrity, and what is installed from it.

Bundles and installations are sealed folders. How one is made or installed is elsewhere. Only the standard
library is used: install.pyz carries these modules to a machine where nothing is installed yet.
"""
