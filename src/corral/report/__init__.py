"""One self-contained page from a run or a set of runs."""
