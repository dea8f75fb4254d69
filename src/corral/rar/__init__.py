"""RAR: the ranker that sees what the recall stage knows (arXiv 2404.09578)."""
