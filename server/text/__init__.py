"""Prompts to token ids, and token ids to text: tokenizer, detokenizer, stop sequences. No HTTP, no
engine, no request."""
