"""Watches what clients do with their replies, connection by connection, and judges them by rules."""
