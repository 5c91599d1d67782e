"""The rules, a file for each part of the contract; a docstring is a rule's statement."""
