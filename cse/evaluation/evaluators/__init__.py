"""Evaluators: what an encoder is scored on, each a file of its own kind of rows."""
