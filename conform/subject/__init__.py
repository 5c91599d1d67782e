"""The tested server: where it answers, what may be asked, and what a few first requests have shown."""
