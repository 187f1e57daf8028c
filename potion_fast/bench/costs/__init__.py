"""The cost model: a pass over the data, a plan of edits and a search, on one device and on many."""

from .calibration import calibrate, link_rates
from .cost_model import Costs, Network, Rates, Work, costs, edited, fitting_shards, memory, ring, shards_needed
from .network import made, network_named, network_of, samples

__all__ = [
    "Costs",
    "Network",
    "Rates",
    "Work",
    "calibrate",
    "costs",
    "edited",
    "fitting_shards",
    "link_rates",
    "made",
    "memory",
    "network_named",
    "network_of",
    "ring",
    "samples",
    "shards_needed",
]
