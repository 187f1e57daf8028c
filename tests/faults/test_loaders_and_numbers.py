"""What goes wrong within a pass or a search: loaders, numbers, memory, devices. The caller's model is as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import potion_fast as pf
from helpers.toys import Blobs, assert_same_weights, batches, net, samples, weights
from potion_fast.errors import PotionError, PotionWarning

pytestmark = pytest.mark.usefixtures("one_thread")


class Untouched:
    """Weights, buffers, modes, gradients, requires_grad and hooks of a model, to be compared."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.weights, self.rest = model, weights(model), self._rest(model)

    @staticmethod
    def _rest(model: nn.Module) -> list[Any]:
        hooks = [(*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks) for m in model.modules()]
        modes = [module.training for module in model.modules()]
        return [hooks, modes, [(p.requires_grad, p.grad) for p in model.parameters()], list(model.state_dict())]

    def check(self) -> None:
        assert_same_weights(self.model, self.weights)
        assert self._rest(self.model) == self.rest
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


class BrokenError(Exception):
    """What a disk or a network gives."""


def raising(loader: list[Any]) -> Iterator[Any]:
    yield from loader[:2]
    raise BrokenError("the disk is gone")


def unlabelled(loader: list[Any]) -> Iterator[Any]:
    yield from loader[:2]
    yield loader[2][0]


def of_another_shape(loader: list[Any]) -> Iterator[Any]:
    yield from loader[:2]
    yield loader[2][0][..., :2], loader[2][1]


def of_another_length(loader: list[Any]) -> Iterator[Any]:
    yield from loader[:2]
    yield loader[2][0], loader[2][1][:-1]


def with_a_label_too_high(loader: list[Any]) -> Iterator[Any]:
    yield from loader[:2]
    yield loader[2][0], loader[2][1] + 7


def nothing(loader: list[Any]) -> Iterator[Any]:
    yield from ()


def of_text(loader: list[Any]) -> Iterator[Any]:
    yield from loader[:2]
    yield "a batch", "its labels"


@pytest.mark.parametrize(
    "fault", [raising, unlabelled, of_another_shape, of_another_length, with_a_label_too_high, nothing, of_text]
)
def test_a_loader_that_fails_costs_neither_model_nor_pass(tmp_path: Path, fault: Callable[[Any], Any]):
    model, loader, path = net(), batches(*samples(12), 3), tmp_path / "pass.safetensors"
    whole, before = pf.importance(model, loader, "ssd", group_size=1), Untouched(model)
    own = (PotionError, BrokenError, IndexError, RuntimeError)  # of the loader, of the model on what it was given
    with pytest.raises(own) as caught:
        pf.importance(model, fault(loader), "ssd", group_size=1, checkpoint=path)
    assert str(caught.value)
    before.check()
    again = pf.importance(model, loader, "ssd", group_size=1, checkpoint=path, resume=True)
    assert torch.equal(again.sums, whole.sums) and again.samples == 12
    before.check()


def test_a_loader_of_another_length_when_resumed_is_refused_or_counted(tmp_path: Path):
    model, loader, path = net(), batches(*samples(18), 3), tmp_path / "pass.safetensors"
    with pytest.raises(BrokenError):
        pf.importance(model, raising(loader), group_size=1, checkpoint=path)
    with pytest.raises(pf.PotionError, match="gave 3 samples, the checkpoint had 6"):
        pf.importance(model, loader[:1], group_size=1, checkpoint=path, resume=True)
    shorter = pf.importance(model, loader[:4], group_size=1, checkpoint=path, resume=True)
    assert shorter.samples == 12 and torch.equal(shorter.sums, pf.importance(model, loader[:4], group_size=1).sums)


def test_samples_that_come_twice_count_twice():
    loader = batches(*samples(6), 3)
    once, twice = pf.importance(net(), loader, group_size=1), pf.importance(net(), [*loader, *loader], group_size=1)
    assert twice.samples == 12
    torch.testing.assert_close(twice.mean, once.mean, rtol=1e-5, atol=0)


class Fatal(Dataset[Any]):
    """A data set whose reader is killed at one sample, as by a system that is out of memory."""

    def __init__(self, at: int) -> None:
        self.inputs, self.labels = samples(12)
        self.at = at

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        if index == self.at and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inputs[index], self.labels[index]


def test_a_pass_whose_reader_was_killed_ends_and_can_be_resumed(tmp_path: Path):
    model, path = net(), tmp_path / "pass.safetensors"
    before = Untouched(model)
    with pytest.raises(RuntimeError, match="exited unexpectedly|killed by signal"):
        pf.importance(model, DataLoader(Fatal(9), 3, num_workers=1, prefetch_factor=1), group_size=1, checkpoint=path)
    before.check()
    again = pf.importance(model, DataLoader(Fatal(99), 3), group_size=1, checkpoint=path, resume=True)
    assert torch.equal(again.sums, pf.importance(model, DataLoader(Fatal(99), 3), group_size=1).sums)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["weights", "inputs"])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, where: str, value: float):
    model, loader = net(), batches(*samples(12), 3)
    if where == "weights":
        with torch.no_grad():
            model.head.weight[1, 2] = value
        words = r"'head\.weight' holds values that are not finite"
    else:
        loader[2][0][1] = value
        words = "the loss of sample 7 is"
    before = Untouched(model)
    with pytest.raises(PotionError, match=words):
        pf.importance(model, loader, "ssd", group_size=1)
    before.check()


def test_gradients_that_are_not_finite_are_named():
    """Every loss is finite and every gradient too, but not their sum."""
    model = net()
    before = Untouched(model)
    with pytest.raises(PotionError, match=r"importances of parameter 'conv\.weight' are not finite"):
        pf.importance(model, batches(*samples(60), 20), lambda outputs, _: 3e38 * outputs.sin().mean(1), group_size=1)
    before.check()


def test_importances_and_weights_that_are_not_finite_stop_a_search():
    blobs = Blobs()
    forget, retain = (
        pf.importance(blobs.model, blobs.forget(), group_size=1),
        pf.importance(blobs.model, blobs.retain(), group_size=1),
    )
    before = Untouched(blobs.model)
    for importance in (forget, retain):
        importance.sums[5] = float("nan")
        with pytest.raises(PotionError, match=r"0\.weight"):
            pf.ptn_search(blobs.model, forget, retain, blobs.forget())
        importance.sums[5] = 1.0
    before.check()
    with torch.no_grad():
        blobs.model[0].weight[0, 0] = float("nan")
    with pytest.raises(PotionError):
        pf.ptn_search(blobs.model, forget, retain, blobs.forget())


FAILURES = {
    "memory": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "host-memory": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    "python-memory": MemoryError,
    "device": lambda: RuntimeError("CUDA error: unspecified launch failure"),
    "ctrl-c": KeyboardInterrupt,
}


def failing_at(model: nn.Module, call: int, failure: Callable[[], BaseException]) -> Any:
    """A hook that fails at one call of the model's last layer, and what it has counted."""
    calls = [0]

    def hook(module: nn.Module, inputs: Any) -> None:
        calls[0] += 1
        if calls[0] == call:
            raise failure()

    return list(model.modules())[-1].register_forward_pre_hook(hook), calls


@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_at_any_moment_leaves_the_model_unchanged(name: str):
    """At every forward pass of an unlearning, in place or not: an error or the right answer, and then success."""
    blobs = Blobs(n=60, poisoned=10)
    loaders = blobs.retain(5, 20), blobs.forget(5)

    def unlearn(model: nn.Module, **more: Any) -> Any:
        return pf.unlearn(model, *loaders, group_size=1, max_steps=6, **more)

    wanted = weights(unlearn(blobs.model).model)
    handle, calls = failing_at(blobs.model, 0, FAILURES[name])
    unlearn(blobs.model)
    handle.remove()
    before, ended = Untouched(blobs.model), 0
    for call in range(1, calls[0] + 1):
        handle, _ = failing_at(blobs.model, call, FAILURES[name])
        result = None
        try:
            with suppress(RuntimeError, MemoryError, PotionError, KeyboardInterrupt):
                result = unlearn(blobs.model, inplace=bool(call % 2))
        finally:
            handle.remove()
        if result is not None:  # a batch was halved, and then there was memory enough
            ended += 1
            for key, value in result.model.state_dict().items():
                torch.testing.assert_close(value, wanted[key])
            blobs.model.load_state_dict(before.weights)
        before.check()
    assert "memory" in name or not ended, "the failure was lost"
    assert_same_weights(unlearn(blobs.model).model, wanted)


def test_a_device_that_is_lost_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The sums on it are lost, and the last checkpoint stays."""
    model, loader, path = net(), batches(*samples(12), 3), tmp_path / "pass.safetensors"
    whole = pf.importance(model, loader, group_size=1)
    lost = RuntimeError("CUDA error: the launch timed out and was terminated")

    def losing(loader: list[Any]) -> Iterator[Any]:
        yield from loader[:3]
        monkeypatch.setattr("potion_fast.importances.checkpoints.save_checksummed", fail)
        raise lost

    def fail(*arguments: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="launch timed out"), pytest.warns(PotionWarning, match="illegal memory"):
        pf.importance(model, losing(loader), group_size=1, checkpoint=path, checkpoint_seconds=0)
    monkeypatch.undo()
    assert torch.equal(pf.importance(model, loader, group_size=1, checkpoint=path, resume=True).sums, whole.sums)
