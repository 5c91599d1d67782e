"""Runs models: token ids in, token ids out. Text and HTTP have no place here."""
