"""One file per method; `parts` has what they share. Recipes name classes by path, and tests walk this package."""
