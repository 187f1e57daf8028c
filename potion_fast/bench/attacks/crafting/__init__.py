"""Crafting of perturbations: the optimisation behind gradient matching and gradient canceling."""
