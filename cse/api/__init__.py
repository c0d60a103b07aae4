"""Offer `cse.train` and the rest to scripts and notebooks; commands call the same functions."""
