"""Collators: they make the views of rows, and batches of them."""
