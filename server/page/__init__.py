"""The pages at / and /status, as a browser gets them: HTML, CSS and ES modules by hand, and no Python."""
