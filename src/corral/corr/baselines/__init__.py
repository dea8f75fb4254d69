"""Other ways of training both stages together, on the same trunks, to compare with."""
