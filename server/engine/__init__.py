"""What runs a model: tokens in, tokens out. Text and HTTP have no place here."""
