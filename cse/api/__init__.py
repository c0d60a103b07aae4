"""What a script or a notebook calls, `cse.train` and the rest: commands call the same functions."""
