"""A model on disk: the layout of its folder, where it comes from, its backbone, and the sums of its files."""
