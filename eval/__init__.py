"""What we run on ourselves: benchmarks, reproductions, the tables of the documentation. README.md has the protocol."""
