"""The files of the pages at / and /status: handwritten HTML, CSS and ES modules, and no Python."""
