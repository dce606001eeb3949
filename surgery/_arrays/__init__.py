"""Arrays of any library: what a backend offers, and the backends that need no framework."""
