"""Names of leaves: keys, their text, patterns over them, and many patterns at once."""
