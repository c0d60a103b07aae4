"""One file per method. There is no registry: a recipe names a class by its path, and tests walk this package."""
