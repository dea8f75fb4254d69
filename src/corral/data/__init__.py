"""From raw events to batches."""
