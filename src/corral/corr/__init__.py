"""CoRR: the retriever and the ranker trained together (arXiv 2206.14649)."""
