"""How tokens and candidates are chosen: what happens between a model's logits and the text."""
