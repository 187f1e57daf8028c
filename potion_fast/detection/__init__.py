"""Detection of the rest of the poison in training data."""
