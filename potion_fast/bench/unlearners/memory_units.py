"""Memory units: branches beside the blocks of a model that only some samples use, each its own ones, for `REM`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ModelError
from ..attacks.pixels import uniform
from .stages import stages

SHARED = 2**40  # the id whose units all of S_f use; no sample has it


class Branch(nn.Module):
    """out(mask ⊙ ReLU(hidden(x))), which is added to a block's output; zero at first.

    Args:
        inputs: of the block, [B, C, H, W], [B, T, D] or [B, D].
        outputs: of the block, of as many dimensions.
        units: hidden units.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, units: int) -> None:
        super().__init__()
        self.size = (outputs.shape[2], outputs.shape[3]) if outputs.ndim == 4 else None
        if outputs.ndim == 4:
            self.hidden: nn.Module = nn.Conv2d(inputs.shape[1], units, 3, padding=1)
            self.out: nn.Module = nn.Conv2d(units, outputs.shape[1], 1, bias=False)
        else:
            self.hidden = nn.Linear(inputs.shape[-1], units)
            self.out = nn.Linear(units, outputs.shape[-1], bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """What is added, given the units [B, units] that each sample uses."""
        hidden = self.hidden(inputs)
        if self.size is not None:
            hidden = F.adaptive_avg_pool2d(hidden, self.size) if tuple(hidden.shape[2:]) != self.size else hidden
            return self.out(F.relu(hidden) * mask[:, :, None, None])
        return self.out(F.relu(hidden) * (mask[:, None] if hidden.ndim == 3 else mask))


class MemoryUnits(nn.Module):
    """A branch for each of several blocks of a model, used within `on` alone.

    Args:
        model: whose blocks get branches; it is not changed.
        blocks: names of its modules.
        inputs: of the model, two samples or more, to see the blocks' shapes.
        share: hidden units of a branch, of its block's channels.
        kept: share of the units that a sample uses.
        seed: of the units that a sample uses.

    Raises:
        ModelError: a block that there is not, or whose input and output are not one tensor of as many dimensions each.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[str], inputs: Tensor, share: float, kept: float, seed: int
    ) -> None:
        super().__init__()
        self.names, self.kept, self.seed = list(blocks), kept, seed
        seen = shapes_of(model, self.names, inputs)
        for name in self.names:
            if name not in seen:
                raise ModelError(f"block {name}: its input and output must be one tensor each, of as many dimensions")
        channels = {name: seen[name][1].shape[1 if seen[name][1].ndim == 4 else -1] for name in self.names}
        self.units = [max(1, round(share * channels[name])) for name in self.names]
        self.branches = nn.ModuleList(
            Branch(*seen[name], units) for name, units in zip(self.names, self.units, strict=True)
        )

    @contextmanager
    def on(self, model: nn.Module, ids: Tensor) -> Iterator[None]:
        """Let the branches add to the blocks of a model of the same form.

        Args:
            model: the model.
            ids: int64 [B], of the samples that go through it: the units that each uses follow from its id.
        """
        device = next(self.parameters()).device
        masks = self.masks(ids).to(device).split(self.units, 1)

        def adding(branch: nn.Module, mask: Tensor) -> Any:
            return lambda block, inputs, output: output + branch(inputs[0], mask)

        hooks = [
            model.get_submodule(name).register_forward_hook(adding(branch, mask))
            for name, branch, mask in zip(self.names, self.branches, masks, strict=True)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def masks(self, ids: Tensor) -> Tensor:
        """The units of all branches that each sample uses, float32 [B, units]: each by a draw that bears its id."""
        total = sum(self.units)
        return (uniform(self.seed, ids.cpu().numpy()[:, None] * total + np.arange(total)) < self.kept).float()


def default_blocks(model: nn.Module, inputs: Tensor) -> list[str]:
    """The model's stages with weights, whose input and output are one tensor of as many dimensions; not the last.

    Args:
        model: in evaluation mode.
        inputs: of two samples or more.

    Raises:
        ModelError: there is none.
    """
    names = stages(model)
    weighted = [name for name in names if next(model.get_submodule(name).parameters(), None) is not None]
    seen = shapes_of(model, weighted, inputs)
    found = [name for name in weighted if name in seen][:-1]
    if not found:
        raise ModelError("the model has no blocks that memory units could stand beside; name them: blocks=[...]")
    return found


def shapes_of(model: nn.Module, names: Sequence[str], inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Input and output of each module where both are one tensor of as many dimensions, 2 to 4.

    Raises:
        ModelError: a module that there is not.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def noting(name: str) -> Any:
        def note(module: nn.Module, given: tuple[Any, ...], output: object) -> None:
            tensors = len(given) == 1 and isinstance(given[0], Tensor) and isinstance(output, Tensor)
            if tensors and 2 <= given[0].ndim <= 4 and given[0].ndim == output.ndim:  # type: ignore[attr-defined]
                seen[name] = given[0].detach(), output.detach()  # type: ignore[attr-defined]

        return note

    try:
        hooks = [model.get_submodule(name).register_forward_hook(noting(name)) for name in names]
    except AttributeError as error:
        raise ModelError(f"blocks={list(names)}: {error}") from error
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
