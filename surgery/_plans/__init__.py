"""Checked edits: plans, and the verbs and recipes that make them."""
