"""What a client does with what it gets: watched connection by connection, and judged rule by rule."""
