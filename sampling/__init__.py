"""Sampling: everything between a model's logits and the chosen tokens and candidates."""
