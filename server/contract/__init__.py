"""The fields of a request and their meaning, and the shapes of replies. No HTTP, no engine."""
