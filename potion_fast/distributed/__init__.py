"""Several processes, started with torchrun, as one: what each takes of the data, and that they end or fail together."""

from .ranks import Group, Ranks, unwrap_compile, unwrap_ddp
from .sampler import ShareSampler, ranks_for, shares

__all__ = ["Group", "Ranks", "ShareSampler", "ranks_for", "shares", "unwrap_compile", "unwrap_ddp"]
