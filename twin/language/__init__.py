"""A small language model: n-grams of English text, over the twin's own tokens or those of a real model."""
