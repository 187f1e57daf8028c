"""Helpers shared by the rest: model access, batches, predictions, memory, files."""
