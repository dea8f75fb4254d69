"""Training negatives, with the log-probability of drawing them."""
