"""Trees as they are: containers and leaves, how they are walked, built again, and who knows their types."""
