"""Model directories: their contents, checked without loading them, and the built-in model."""
