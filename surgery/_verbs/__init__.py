"""What one does with a tree and no plan: flatten, look, take apart, put together, compare."""
