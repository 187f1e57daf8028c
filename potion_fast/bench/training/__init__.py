"""Training of the models that the bench poisons."""
