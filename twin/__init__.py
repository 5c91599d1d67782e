"""A server to test clients against: our front end, a small language model, faults on demand, a verdict."""
