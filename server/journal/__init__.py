"""The request journal: what is in a record, the files that have them, how it is written, read, summed."""
