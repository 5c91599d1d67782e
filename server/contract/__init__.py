"""What a request may say, what that means, and the shape of what goes out. No HTTP, no engine."""
