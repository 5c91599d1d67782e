"""The rules, one file for each part of the contract. The docstring of a rule is its statement."""
