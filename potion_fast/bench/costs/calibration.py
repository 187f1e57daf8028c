"""The rates of the cost model, measured on this machine in a few seconds."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from ...edits.plan import EditPlan
from ...errors import PotionError
from ...importances import Importance, importance
from ...modes import mode_named
from ...percentiles import schedule
from ...search import BLOCK, S_STEP
from ...search.evaluation import Evaluation
from ...utils.model import fingerprint, trainable
from .cost_model import EDIT, NUMBER, PLAN_READ, Network, Rates, Work, ring

SECONDS = 2.0
LEAST = 3  # times that anything is timed
REDUCED = 2**24  # numbers that are all-reduced at most, 64 MiB


class Repeated:
    """A loader that gives the same batch again and again until enough is timed.

    Attributes:
        asked: seconds at which each batch was requested, and at last one past the end.
    """

    def __init__(self, inputs: Tensor, seconds: float, now: Callable[[], float]) -> None:
        self.batch = inputs, torch.zeros(len(inputs), dtype=torch.int64)
        self.seconds, self.now, self.asked = seconds, now, list[float]()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked = []
        while True:
            self.asked.append(self.now())
            if len(self.asked) > LEAST + 1 and self.asked[-1] - self.asked[1] > self.seconds:
                return
            yield self.batch

    @property
    def each(self) -> float:
        """Median seconds of a batch; the first is left out."""
        return statistics.median(after - before for before, after in pairwise(self.asked[1:]))


def calibrate(
    model: nn.Module,
    network: Network,
    inputs: Tensor,
    work: Work,
    processes: Sequence[int] = (),
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """Time a pass, an evaluation, a plan and its edits, and all-reduces between gloo processes of this machine.

    Args:
        model: on the device to measure; its weights are left as they are.
        network: what it costs, see `network_of`.
        inputs: [B, ...] a batch, on the same device.
        work: how large the groups of the pass are, how many samples are found, how many weights a plan takes.
        processes: numbers of processes to measure a link for.
        seconds: that the pass and the evaluation are each timed for, at the least.
        clock: in seconds; `time.process_time` leaves out what other programs take, where torch has one thread.
    """

    def now() -> float:
        if inputs.is_cuda:
            torch.cuda.synchronize(inputs.device)
        return clock()

    batches = Repeated(inputs, seconds, now)
    start = now()
    importance(model, batches, group_size=work.m, process_group=False)
    once = batches.asked[-1] - start - (len(batches.asked) - 1) * batches.each
    few = Repeated(inputs[: work.found], seconds, now)
    Evaluation(model, few)()
    plan, edit = _arithmetic(model, network, work, now)
    return Rates(
        pass_flops=len(inputs) * network.flops / batches.each,
        forward_flops=len(few.batch[0]) * network.forward_flops / few.each,
        plan=plan,
        edit=edit,
        setup=max(0.0, once * len(inputs) / batches.each),
        links=link_rates(processes, min(network.parameters, REDUCED)),
    )


def _arithmetic(model: nn.Module, network: Network, work: Work, now: Callable[[], float]) -> tuple[float, float]:
    """Bytes/s of a plan and of its edits, on importances that are spread as widely as those of trained models."""
    device = next(model.parameters()).device
    sums = [torch.empty(network.parameters, device=device).log_normal_(-8, 2) for _ in range(2)]  # [n] each
    shapes = {name: tuple(parameter.shape) for name, parameter in trainable(model).items()}
    mark, taken = fingerprint(model), []
    points = schedule(work.found / (work.samples + work.found), mode_named("default").b_start, S_STEP)
    percentiles = [p for _, p in islice(points, BLOCK)]
    for _ in range(LEAST + 2):
        forget, retain = (Importance(total, shapes, 1, 1, "xlf", 1, mark) for total in sums)  # anew: without means
        start = now()
        plan = EditPlan.at_percentiles(model, forget, retain, percentiles)
        planned = now()
        for k in range(len(plan)):
            plan.apply(k)
        taken.append((planned - start, now() - planned))
        plan.reset()
    making, editing = (statistics.median(column) for column in zip(*taken, strict=True))
    return PLAN_READ * network.parameters / making, EDIT * max(1, plan.dampened(BLOCK - 1)) / editing


def link_rates(processes: Sequence[int], numbers: int) -> dict[int, float]:
    """Measure the links of this machine: n -> bytes/s that each of n gloo processes sends in an all-reduce.

    Args:
        processes: numbers of processes.
        numbers: length of the flat float32 buffer.

    Raises:
        PotionError: they cannot work together.
    """
    sizes = sorted({n for n in processes if n > 1})
    if not sizes:
        return {}
    get_context("forkserver").set_forkserver_preload([__name__])  # one import of torch for all of them
    with tempfile.TemporaryDirectory() as folder:
        try:
            start_processes(_reduce, (sizes, numbers, folder), nprocs=sizes[-1], start_method="forkserver")
        except (ProcessExitedException, ProcessRaisedException) as error:
            raise PotionError(
                f"no all-reduce between {sizes[-1]} processes of this machine, give the speed of the link: {error}"
            ) from error
        taken = json.loads(Path(folder, "seconds").read_text(encoding="ascii"))
    return {n: ring(n) * NUMBER * numbers / seconds for n, seconds in zip(sizes, taken, strict=True)}


def _reduce(rank: int, sizes: list[int], numbers: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=sizes[-1])
    buffer, medians = torch.zeros(numbers), []
    for n in sizes:
        group = dist.new_group(range(n))
        medians.append(_reduced(buffer, group) if isinstance(group, dist.ProcessGroup) else 0.0)
        dist.barrier()
    if rank == 0:
        Path(folder, "seconds").write_text(json.dumps(medians), encoding="ascii")
    dist.destroy_process_group()


def _reduced(buffer: Tensor, group: dist.ProcessGroup) -> float:
    """Median seconds of an all-reduce."""
    taken = []
    for _ in range(LEAST + 2):
        dist.barrier(group)
        start = time.perf_counter()
        dist.all_reduce(buffer, group=group)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
