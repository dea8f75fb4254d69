"""Stage 2: candidates to the final order."""
