"""One request between its prompt and its deltas: token ids, candidates, their text, their ranking.

No bytes, no HTTP.
"""
