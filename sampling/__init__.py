"""How tokens and candidates are chosen: what the server does between a model's logits and the text it returns."""
