"""The configurations of the runs, one file each; `potion_fast.experiments.config` has them all."""
