"""The commands that work on a configuration or on model directories without serving them."""
