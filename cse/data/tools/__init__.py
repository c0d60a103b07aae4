"""Work on rows before training: show them, count them, split, deduplicate and mix them into files."""
