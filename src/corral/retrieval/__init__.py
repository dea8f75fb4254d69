"""Stage 1: all items to hundreds of candidates."""
