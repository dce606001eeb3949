"""Edit rules: what they say, what they mean on a given tree, and that they fit."""
