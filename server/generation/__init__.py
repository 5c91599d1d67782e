"""One request, from its prompt to its deltas: token ids, candidates, their text, their ranking. No
bytes, no HTTP."""
