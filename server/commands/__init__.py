"""What `verbatim` does with a configuration and with model directories, without serving them."""
