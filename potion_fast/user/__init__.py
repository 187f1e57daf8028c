"""Readers of a user's own models, data and lists of found samples; needs the extra `cli`."""
