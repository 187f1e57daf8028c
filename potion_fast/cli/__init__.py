"""The console script `potion-fast`."""
