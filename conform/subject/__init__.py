"""The server as the rules see it: where it answers, what may be asked, what a few requests have told."""
