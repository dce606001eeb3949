"""Parameters and their optimizer's state as one thing."""
