"""Trees in files: formats, reading when used, writing whole or not at all."""
