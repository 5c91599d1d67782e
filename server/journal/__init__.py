"""The request journal: its records, its files, and how it is written, read and summed."""
