"""What the rooms above share: model access, batches, predictions, memory, files."""
