"""The costs of a pass, a plan of edits and a search: seconds, bytes and memory, from rates that were measured.

P parameters; F FLOPs for a sample's forward and backward pass, F_f for its forward pass alone; A and A_f bytes of a
sample's activations in them; N training samples in batches of B, N_f found ones; K candidates, one after the other. n
processes on a device each: s of them share one copy of model and importances (FSDP), so that there are r = n / s
copies. A process takes D = ⌈⌈N / m⌉ / n⌉ · m samples, whole groups of m. All numbers are float32.

seconds
  pass        (D + setup) · F / R_pass           over the training data, and with N_f for N over the found samples;
                                                 setup: what a pass does once, as long as so many samples
  gather      ⌈D / B⌉ · 3 (s − 1)/s · 4 P / L    for every batch of a pass, where s > 1: weights come in for forward and
                                                 backward, and the sums go out to their shards
  all-reduce  2 (r − 1)/r · 4 P/s / L            in a ring, at the end of each pass
  plan        ⌈K / 64⌉ · 8 P/s / R_plan          reads Ω_f and Ω_r; one plan has 64 candidates
  edits       12 m_K/s / R_edit                  m_K = (100 − p_K)/100 · P weights are edited, each once: an index and a
                                                 value are read, a weight is written
  evaluation  (1 + ⌈K / c⌉) · (N_f · F_f / R_forward + ⌈N_f / B⌉ · (s − 1)/s · 4 P / L)
                                                 c = n candidates at the same time where s = 1, else one
bytes that a process sends: what stands over L
bytes of memory of a process, the larger of
  pass        (4 weights + 4 Ω_f + 4 Ω_r + 4 a copy of it) · P/s + A · min(B, D); where m > B, groups come in parts
              whose gradients are added up: 8 P/s more, and 4 P/s for A · min(B, D) if that is larger
  search      (4 weights + 4 a copy of them where s = 1 + 8 sums + 8 means) · P/s + 28 m_64/s + A_f · min(B, N_f)

Left out: reading the data (the loader keeps up), writing files (4 P bytes for each importance), latency, the layer that
is gathered under FSDP, the kernels' working space, and what processes tell each other of counts and accuracies.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import islice

from ...errors import PotionError
from ...modes import mode_named
from ...percentiles import schedule
from ...search import BLOCK, S_STEP

NUMBER = 4  # bytes of a float32
PLAN_READ, EDIT = 2 * NUMBER, 3 * NUMBER  # bytes for each parameter and for each edited weight
PASS_HELD, SEARCH_HELD, KEPT = 4 * NUMBER, 5 * NUMBER, 28  # bytes; KEPT for each weight that some candidate edits


@dataclass(frozen=True)
class Network:
    """A model, by what it costs.

    Attributes:
        parameters: P, the trainable ones.
        flops: F of a sample's forward and backward pass; a multiplication and an addition count as 2.
        forward_flops: F_f of its forward pass alone.
        activations: A, bytes that a sample's forward pass keeps for the backward pass; 0 where it is not known.
        forward_activations: A_f, bytes that it holds at once without a backward pass; 0 where it is not known.
    """

    parameters: int
    flops: float
    forward_flops: float
    activations: float = 0.0
    forward_activations: float = 0.0

    def __post_init__(self) -> None:
        _check_positive({name: getattr(self, name) for name in ("parameters", "flops", "forward_flops")})
        held = {"activations": self.activations, "forward_activations": self.forward_activations}
        _check_positive(held, or_zero=True)


@dataclass(frozen=True)
class Work:
    """What is unlearnt.

    Attributes:
        samples: N, of the training data without the found ones.
        found: N_f.
        steps: K, candidates until the search ends.
        batch: B.
        group: m, samples whose loss is averaged; None: as many as `unlearn` takes, 64 and not more than were found.
    """

    samples: int
    found: int
    steps: int = BLOCK
    batch: int = 64
    group: int | None = None

    def __post_init__(self) -> None:
        _check_positive({field.name: getattr(self, field.name) for field in fields(self) if field.name != "group"})
        _check_positive({"group": self.m})

    @property
    def m(self) -> int:
        """Samples of a group."""
        return int(mode_named("default").group_size_for(self.found)) if self.group is None else self.group


@dataclass(frozen=True)
class Rates:
    """How fast one process with a device of its own is.

    Attributes:
        pass_flops: R_pass, FLOP/s of a pass: F is what an ordinary forward and backward pass takes.
        forward_flops: R_forward, FLOP/s.
        plan: R_plan, bytes/s.
        edit: R_edit, bytes/s.
        setup: samples.
        links: number of processes -> L, bytes/s that each of them sends in an all-reduce; a number of them that is
            missing takes that of the next smaller one.
    """

    pass_flops: float
    forward_flops: float
    plan: float
    edit: float
    setup: float = 0.0
    links: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_positive({name: getattr(self, name) for name in ("pass_flops", "forward_flops", "plan", "edit")})
        _check_positive({f"links[{n}]": rate for n, rate in self.links.items()})
        _check_positive({"setup": self.setup}, or_zero=True)

    def link(self, processes: int) -> float:
        """Raises PotionError where none was measured."""
        if not self.links:
            raise PotionError("several processes need the speed of a link between them, in bytes/s")
        return self.links[max((n for n in self.links if n <= processes), default=min(self.links))]


@dataclass(frozen=True)
class Costs:
    """Of one process of several, which work at the same time: in seconds, bytes sent and bytes of memory, by phase."""

    processes: int
    shards: int
    seconds: dict[str, float]
    sent: dict[str, float]
    memory: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(self.seconds.values())

    @property
    def peak(self) -> float:
        """Bytes."""
        return max(self.memory.values())


def costs(network: Network, work: Work, rates: Rates, processes: int = 1, shards: int = 1) -> Costs:
    """What an unlearning costs, by the equations above.

    Raises:
        PotionError: a number out of range, or shards that do not divide the processes.
    """
    check_shards(processes, shards)
    P, N_f, B = network.parameters, work.found, work.batch
    n, s, r = processes, shards, processes // shards
    weights, others = NUMBER * P, (s - 1) / s  # bytes, and the part of them that other processes have
    evaluations = 1 + math.ceil(work.steps / (n if s == 1 else 1))
    sent = {
        "retain pass": math.ceil(_part(work.samples, work, n) / B) * 3 * others * weights,
        "forget pass": math.ceil(_part(N_f, work, n) / B) * 3 * others * weights,
        "all-reduce": 2 * ring(r) * weights / s,  # two passes
        "evaluation": evaluations * math.ceil(N_f / B) * others * weights,
    }
    L = rates.link(n) if n > 1 else math.inf
    seconds = {
        "retain pass": (_part(work.samples, work, n) + rates.setup) * network.flops / rates.pass_flops,
        "forget pass": (_part(N_f, work, n) + rates.setup) * network.flops / rates.pass_flops,
        "all-reduce": 0.0,
        "plan": math.ceil(work.steps / BLOCK) * PLAN_READ * P / s / rates.plan,
        "edits": EDIT * edited(network, work) / s / rates.edit,
        "evaluation": evaluations * N_f * network.forward_flops / rates.forward_flops,
    }
    seconds = {phase: compute + sent.get(phase, 0.0) / L for phase, compute in seconds.items()}
    return Costs(n, s, seconds, sent, memory(network, work, n, s))


def ring(n: int) -> float:
    """How many times its buffer a process sends when n of them all-reduce it in a ring: 2 (n − 1)/n."""
    return 2 * (n - 1) / n


def memory(network: Network, work: Work, processes: int = 1, shards: int = 1) -> dict[str, float]:
    """Bytes of a process, in the pass and in the search."""
    P, batches = network.parameters, _activations(network, work, processes)
    kept, copied = KEPT * edited(network, work, whole_plan=True), NUMBER * P if shards == 1 else 0
    gradient = NUMBER * P / shards if work.m > work.batch else 0  # of a part of a group; and their sum, and its copy
    return {
        "pass": PASS_HELD * P / shards + 2 * gradient + max(gradient, batches["pass"]),
        "search": (SEARCH_HELD * P + copied + kept) / shards + batches["search"],
    }


def shards_needed(network: Network, work: Work, processes: int, device_memory: float) -> int | None:
    """The fewest shards whose memory fits the devices, whether there are as many processes or not.

    Returns:
        None where not even a batch's activations fit.
    """
    _check_positive({"processes": processes, "device_memory": device_memory})
    if max(_activations(network, work, processes).values()) >= device_memory:
        return None

    def fits(shards: int) -> bool:
        return max(memory(network, work, processes, shards).values()) <= device_memory

    return bisect_left(range(2**62), True, lo=1, key=fits)


def fitting_shards(network: Network, work: Work, processes: int, device_memory: float) -> int | None:
    """The fewest shards that fit and divide the processes; None where they are too few."""
    needed = shards_needed(network, work, processes, device_memory)
    if needed is None or needed > processes:
        return None
    return next(s for s in range(needed, processes + 1) if processes % s == 0)


def edited(network: Network, work: Work, whole_plan: bool = False) -> int:
    """m_K: weights that some of K candidates edits; of all candidates of the last plan if requested."""
    steps = math.ceil(work.steps / BLOCK) * BLOCK if whole_plan else work.steps
    share = work.found / (work.samples + work.found)
    for _, p in islice(schedule(share, mode_named("default").b_start, S_STEP), steps):
        last = p
    return round((100 - last) / 100 * network.parameters)


def check_shards(processes: int, shards: int) -> None:
    """Raise PotionError unless the shards divide the processes."""
    _check_positive({"processes": processes, "shards": shards})
    if processes % shards:
        raise PotionError(f"{processes} processes cannot hold copies of {shards} shards each: it must divide them")


def _part(samples: int, work: Work, processes: int) -> int:
    """D of so many samples: a process takes whole groups."""
    return min(samples, math.ceil(math.ceil(samples / work.m) / processes) * work.m)


def _activations(network: Network, work: Work, processes: int) -> dict[str, float]:
    """Bytes of a batch's activations, in the pass and in the search."""
    samples = min(work.batch, _part(work.samples, work, processes))
    return {
        "pass": network.activations * samples,
        "search": network.forward_activations * min(work.batch, work.found),
    }


def _check_positive(values: Mapping[str, float], or_zero: bool = False) -> None:
    for name, value in values.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and not or_zero):
            raise PotionError(f"{name} must be finite and {'not negative' if or_zero else 'above 0'}, not {value}")
