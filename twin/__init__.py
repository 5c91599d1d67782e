"""A server to test clients against: our front end with a small language model, faults on demand, and a report
on the clients."""
