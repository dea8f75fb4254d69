"""One reader a file, for the makers' own formats."""
