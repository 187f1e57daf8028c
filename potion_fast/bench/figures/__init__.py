"""Pictures of a run, and the look that all figures share."""
