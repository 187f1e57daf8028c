"""Several processes of torch.distributed as one: their shares of the data, and errors that all of them raise."""

from .ranks import Group, Ranks, unwrap_compile, unwrap_ddp
from .sampler import ShareSampler, gives_a_share, ranks_for

__all__ = ["Group", "Ranks", "ShareSampler", "gives_a_share", "ranks_for", "unwrap_compile", "unwrap_ddp"]
