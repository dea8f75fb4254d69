"""CTR models, one a file: fields and history in, logits out."""
