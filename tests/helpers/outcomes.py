"""What becomes of a pass over a model: exact by one of three ways, refused, or wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import potion_fast as pf
from helpers.cases import Case
from helpers.loops import LABELS, loop
from helpers.random_networks import Network
from potion_fast.errors import PotionError, PotionWarning
from potion_fast.importances.engine import Engine
from potion_fast.importances.fallback import Fallback

# A group that comes alone has the gradient of an ordinary backward pass.
ALONE, RULE, FUNC, LOOP, REFUSED = "plain backward", "by rule", "by torch.func", "by loop", "refused"
WRONG, CHANGED, CRASHED, NEEDLESS = "wrong", "model changed", "another error", "refused needlessly"
GOOD = (ALONE, RULE, FUNC, LOOP, REFUSED)  # in the order of their cost
BAD = (NEEDLESS, CRASHED, CHANGED, WRONG)
ROUNDING = 1e-9  # of a parameter's importances, relative to their norm; gradients that cancel out are 1e-13 of the rest

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Outcome:
    """Attributes:
    kind: One of `GOOD` or `BAD`.
    detail: The refusal, or what is wrong.
    """

    kind: str
    detail: str = ""

    @property
    def rank(self) -> int:
        """0 for the best."""
        return (*GOOD, *BAD).index(self.kind)


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The one that is furthest from a rule."""
    return max(outcomes, key=lambda outcome: outcome.rank)


def outcome(
    build: Build,
    batches: Sequence[Tensor],
    objective: str,
    group_size: int | str,
    want: dict[str, Tensor] | None = None,
    rounding: float | dict[str, float] = ROUNDING,
) -> Outcome:
    """Importances of a model over batches of inputs, compared with the loop over groups in float64.

    Args:
        build: Makes the model, the same one every time: the loop gets its own.
        batches: Of inputs [B, ...]; the labels are `LABELS`, in turn.
        objective: A name of an objective.
        group_size: As of `pf.importance`.
        want: The loop's values, where they are known.
        rounding: Tolerated error of a parameter's importances, relative to their norm; or by name.
    """
    failure, known = "", set()
    if want is None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                want = expected(build, batches, objective, group_size)
            except Exception as error:  # a batch of one without statistics, say
                want, failure = {}, f"the loop fails and the pass does not: {error}"
        known = {str(warning.message) for warning in caught}  # the model's own
        if not all(value.isfinite().all() for value in want.values()):
            failure = "the loop is not finite and the pass is"
    model, inputs = build(), torch.cat(list(batches))
    labels = LABELS[: len(inputs)].split([len(batch) for batch in batches])
    before = state(model)
    with warnings.catch_warnings(record=True) as caught, ways_taken() as ways:
        warnings.simplefilter("always")
        try:
            got = pf.importance(
                model,
                list(zip(batches, labels, strict=True)),
                objective,
                group_size=group_size,  # type: ignore[arg-type]
                dtype=torch.float64,
            )
        except PotionError as error:
            return (
                Outcome(REFUSED, str(error)) if (change := changed(before, model)) == "" else Outcome(CHANGED, change)
            )
        except Exception as error:  # whatever it is, it is not the library's own
            if failure:
                return Outcome(REFUSED, f"torch itself has no gradient: {error}")
            return Outcome(CRASHED, f"{type(error).__name__}: {error}")
    if change := changed(before, model):
        return Outcome(CHANGED, change)
    if failure:
        return Outcome(WRONG, failure)
    foreign = [w for w in caught if not issubclass(w.category, PotionWarning) and str(w.message) not in known]
    if foreign:
        return Outcome(CRASHED, f"a warning of another library: {foreign[0].message}")
    if errors := differences(got, want, rounding):
        return Outcome(WRONG, errors)
    if not any(value.any() for value in want.values()) and not caught:
        return Outcome(WRONG, "no parameter has a gradient, and no word of that")
    return Outcome(max(ways, key=GOOD.index), ", ".join(got.fallback))


def expected(build: Build, batches: Sequence[Tensor], objective: str, group_size: int | str) -> dict[str, Tensor]:
    """The loop's values, in float64 whatever the dtype of the model."""
    inputs = torch.cat(list(batches))
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    sizes = [len(batch) for batch in batches] if group_size == "batch" else group_size
    return loop(build().double(), inputs, objective, sizes)


def differences(got: pf.Importance, want: dict[str, Tensor], rounding: float | dict[str, float]) -> str:
    """The parameter that is furthest off, in words; "" where all are within rounding."""
    floor = 1e-13 * max((float(torch.linalg.vector_norm(value)) for value in want.values()), default=0.0)
    errors = {}
    for name, value in want.items():
        tolerated = rounding if isinstance(rounding, float) else rounding[name]
        error = torch.linalg.vector_norm(got[name] - value)
        if not error <= tolerated * torch.linalg.vector_norm(value) + floor:
            errors[name] = relative_error(got[name], value)
    if not errors:
        return ""
    name = max(errors, key=lambda name: errors[name])
    return f"{name} is {errors[name]:.1e} off, and {len(errors) - 1} other parameters are off"


def state(model: nn.Module) -> dict[str, object]:
    """Everything of a model that a pass must leave as it was."""
    found: dict[str, object] = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        found[name] = (tensor, tensor.detach().clone(), tensor.requires_grad, tensor.grad)
    for name, module in model.named_modules():
        hooks = (*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks)
        found[f"module {name}"] = (module.training, type(module), hooks, sorted(vars(module)))
    return found


def changed(before: dict[str, object], model: nn.Module) -> str:
    """What differs from `before`, by name; "" for nothing."""
    after = state(model)
    if before.keys() != after.keys():
        return ", ".join(sorted(before.keys() ^ after.keys()))
    for name, old in before.items():
        new = after[name]
        assert isinstance(old, tuple) and isinstance(new, tuple)
        if isinstance(old[0], Tensor):
            if old[0] is not new[0] or not torch.equal(old[1], new[1]) or old[2:] != new[2:]:
                return name
        elif old != new:
            return name
    return ""


@contextmanager
def ways_taken() -> Iterator[list[str]]:
    """The ways of `GOOD` that a pass takes through its batches in the block."""
    ways = [ALONE]
    add_by_rule, add_by_fallback = Engine.add, Fallback.add

    def by_rule(self: Engine, *args: Any, **keywords: Any) -> Any:
        ways.append(RULE)
        return add_by_rule(self, *args, **keywords)

    def by_fallback(self: Fallback, *args: Any, **keywords: Any) -> None:
        add_by_fallback(self, *args, **keywords)
        ways.append(FUNC if self.by_vmap else LOOP)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "add", by_rule)
        patch.setattr(Fallback, "add", by_fallback)
        yield ways


def outcomes_of_case(case: Case) -> list[Outcome]:
    """A case of the layer grid: first in its model and not, groups of 1, 4 and the batch, |g| and g², two loaders."""
    found, inputs = [], case.inputs()
    for first in (True,) if case.tokens else (True, False):
        build = partial(case.model, first)
        for group_size, objective in product((1, 4, "batch"), ("xlf", "ssd")):
            loaders = (inputs.split(3), (inputs,))
            want = None
            for batches in loaders:
                if want is None or group_size == "batch":
                    want = expected(build, batches, objective, group_size)
                result = outcome(build, batches, objective, group_size, want)
                where = f"{'first' if first else 'within'}, {objective}, groups of {group_size}, {len(batches)} batches"
                found.append(Outcome(result.kind, f"{where}: {result.detail}"))
    return found


# Why a network is refused though no samples of it mix.
REASONS = (
    "scales its gradient by the frequency of tokens",
    "activation checkpointing of the reentrant kind",
    "torch itself has no gradient",
)


def outcome_of_network(network: Network) -> Outcome:
    """One pass over a random network."""
    result = outcome(network.model, network.inputs(), network.objective, network.group_size, rounding=1e-7)
    needless = result.kind == REFUSED and not network.mixes and not any(r in result.detail for r in REASONS)
    return Outcome(NEEDLESS, result.detail) if needless else result


def outcomes_in_half(case: Case, dtype: torch.dtype) -> list[Outcome]:
    """A case in float16 or bfloat16, whose errors may be twice those of the loop in that dtype."""
    found, inputs = [], case.inputs()
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs

    def build() -> nn.Module:
        return case.model(first=case.tokens).to(dtype)

    for group_size, objective in product((1, 4, "batch"), ("xlf", "ssd")):
        batches = (inputs,) if group_size == "batch" else inputs.split(3)
        sizes = len(inputs) if group_size == "batch" else group_size
        want = expected(build, batches, objective, group_size)
        try:
            in_half = loop(build(), inputs, objective, sizes)
        except RuntimeError:  # torch lacks the operation in this dtype
            continue
        rounding = {
            name: 8 * torch.finfo(dtype).eps + 2 * relative_error(in_half[name], value) for name, value in want.items()
        }
        found.append(outcome(build, batches, objective, group_size, want, rounding))
    return found


def relative_error(got: Tensor, want: Tensor) -> float:
    """In the 2-norm; of zeros, 0 or infinite."""
    error, norm = float(torch.linalg.vector_norm(got.double() - want)), float(torch.linalg.vector_norm(want))
    return error / norm if norm else (float("inf") if error else 0.0)
