"""Engines: token ids in, token ids and log-probabilities out. Text is none of their business."""
