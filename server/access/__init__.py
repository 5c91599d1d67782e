"""Who may ask, and how much: keys and limits. Nothing of HTTP beyond the Authorization header's text."""
