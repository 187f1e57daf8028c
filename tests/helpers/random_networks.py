"""Random small networks out of the layers of the grid, and what people do between layers.

Every step takes [B, 4, 4] to [B, 4, 4], so that any order of steps is a network, and so is one with a step less: a
failing network shrinks to the steps that matter. What a layer takes is filled up or cut off sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from random import Random

import torch
from torch import Tensor, nn

from helpers.cases import TOKENS
from helpers.layer_grid import CASES
from helpers.network_parts import (
    ACTIVATIONS,
    MIXERS,
    PARAMETERS,
    STEPS,
    WIDTH,
    WRAPPERS,
    Part,
    fitted,
    standard,
)


@dataclass(frozen=True)
class Step:
    """A part of a network: a name of `CASES`, `PARAMETERS`, `ACTIVATIONS`, `WRAPPERS` or `MIXERS`.

    Attributes:
        kind: The name.
        inner: The sequences of steps that a wrapper wraps.
    """

    kind: str
    inner: tuple[tuple[Step, ...], ...] = ()


@dataclass(frozen=True)
class Network:
    """A network, the data that it is given, and what is asked of it.

    Attributes:
        source: What a sample is: "floats", "bytes" or "tokens", or the case of an embedding.
        steps: In order.
        batches: Samples in each batch of the loader.
        group_size: Of the importances.
        objective: Of the importances.
        frozen: Every so many parameters, one requires no gradient; 0 for none.
        hooked: Every so many parameters, one has a hook that masks its gradient; 0 for none.
        training: The model is given in train mode.
    """

    source: str
    steps: tuple[Step, ...]
    batches: tuple[int, ...]
    group_size: int | str
    objective: str
    frozen: int = 0
    hooked: int = 0
    training: bool = False

    @property
    def mixes(self) -> bool:
        """Some step lets samples of a batch see each other."""
        return any(kind in MIXERS for kind in self.kinds)

    @property
    def kinds(self) -> list[str]:
        """Of all steps."""
        found, waiting = [], [*self.steps]
        while waiting:
            step = waiting.pop()
            found.append(step.kind)
            waiting += [inner for sequence in step.inner for inner in sequence]
        return found

    def inputs(self) -> list[Tensor]:
        """The batches of inputs."""
        generator = torch.Generator().manual_seed(0)
        total = sum(self.batches)
        if self.source == "floats":
            inputs = torch.randn(total, STEPS, WIDTH, generator=generator, dtype=torch.float64)
        elif self.source == "bytes":
            inputs = torch.randint(0, 256, (total, STEPS, WIDTH), generator=generator, dtype=torch.uint8)
        else:
            shape = CASES[self.source].shape if self.source in CASES else (STEPS,)
            inputs = torch.randint(0, TOKENS, (total, *shape), generator=generator)
        return list(inputs.split(list(self.batches)))

    def model(self) -> nn.Module:
        """The network in float64; the same every time."""
        torch.manual_seed(0)
        body = nn.Sequential(source(self.source), sequence(self.steps)).double()
        with torch.no_grad():
            for parameter in body.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            for module in body.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                    module.running_mean.normal_(0, 0.3)
                    module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
        model = nn.Sequential(body, nn.Flatten(), nn.Linear(WIDTH * STEPS, 3).double()).train(self.training)
        for i, parameter in enumerate(model.parameters(), start=1):
            parameter.requires_grad_(not (self.frozen and i % self.frozen == 0))
            if self.hooked and i % self.hooked == 0 and parameter.requires_grad:
                mask = torch.rand_like(parameter).round()
                parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
        return model


def source(kind: str) -> nn.Module:
    """Takes the inputs to [B, 4, 4]."""
    if kind in CASES:
        return Part(lambda x, layer: standard(CASES[kind].call(layer, x)), CASES[kind].make())
    if kind == "tokens":
        return Part(lambda x, table: standard(table(x)), nn.Embedding(TOKENS, WIDTH))
    return Part(lambda x: standard(x.double()) / 64 - 2) if kind == "bytes" else nn.Identity()


def sequence(steps: tuple[Step, ...]) -> nn.Sequential:
    return nn.Sequential(*(part(step) for step in steps))


def part(step: Step) -> nn.Module:
    """The module of a step."""
    kind = step.kind
    if kind in CASES:
        case = CASES[kind]
        return Part(lambda x, layer: standard(case.call(layer, fitted(x, *case.shape))), case.make())
    if kind in PARAMETERS:
        function, modules = PARAMETERS[kind]
        return Part(function, *modules())
    if kind in WRAPPERS:
        return Part(WRAPPERS[kind][1], *(sequence(steps) for steps in step.inner))
    return Part(ACTIVATIONS[kind] if kind in ACTIVATIONS else MIXERS[kind])


# --- Random choices -------------------------------------------------------------------------------------------------

_FLOATS = sorted(name for name, case in CASES.items() if not case.tokens)
# By kind, so that a convolution is as likely as a batch norm.
LAYERS = [list(names) for _, names in groupby(_FLOATS, key=lambda name: name.split("(")[0])]
TOKEN_LAYERS = sorted(name for name, case in CASES.items() if case.tokens)


def network(rng: Random) -> Network:
    """A network, a loader and a request; hypothesis may be in the place of `rng`."""
    source = rng.choice(["floats", "floats", "floats", "tokens", "bytes", rng.choice(TOKEN_LAYERS)])
    return Network(
        source=source,
        steps=random_steps(rng, depth=2, most=4),
        batches=tuple(rng.choice([1, 2, 3, 5, 6, 8, 12]) for _ in range(rng.randint(1, 3))),
        group_size=rng.choice([1, 1, 1, 1, 2, 2, 3, 4, "batch"]),
        objective=rng.choice(["xlf", "ssd", "lf"]),
        frozen=rng.choice([0, 0, 0, 3]),
        hooked=rng.choice([0, 0, 0, 0, 0, 0, 4]),
        training=rng.choice([False, True]),
    )


def random_steps(rng: Random, depth: int, most: int) -> tuple[Step, ...]:
    """Up to `most` steps, wrapped in each other `depth` deep."""
    found = []
    for _ in range(rng.randint(1, most)):
        choice = rng.randint(0, 99)
        if choice < 25:
            found.append(Step(rng.choice(rng.choice(LAYERS))))
        elif choice < 45 or (choice >= 65 and depth == 0):
            found.append(Step(rng.choice(sorted(PARAMETERS))))
        elif choice < 65:
            found.append(Step(rng.choice(sorted(ACTIVATIONS))))
        elif choice < 97:
            kind = rng.choice(sorted(WRAPPERS))
            found.append(Step(kind, tuple(random_steps(rng, depth - 1, 2) for _ in range(WRAPPERS[kind][0]))))
        else:
            found.append(Step(rng.choice(sorted(MIXERS))))
    return tuple(found)


# --- Small ones -----------------------------------------------------------------------------------------------------


def smallest(network: Network, fails: Callable[[Network], bool]) -> Network:
    """A network that fails like this one, and no longer does with anything left out."""
    while smaller := next(filter(fails, _smaller(network)), None):
        network = smaller
    return network


def _smaller(network: Network) -> Iterator[Network]:
    yield from (replace(network, steps=steps) for steps in _fewer(network.steps))
    plain = Network("floats", (), (), 1, "xlf")
    for name in ("source", "group_size", "objective", "frozen", "hooked", "training"):
        value = getattr(plain, name)
        if getattr(network, name) != value:
            yield replace(network, **{name: value})
    for i, size in enumerate(network.batches):
        before, after = network.batches[:i], network.batches[i + 1 :]
        if before or after:
            yield replace(network, batches=before + after)
        if size > 1:
            yield replace(network, batches=(*before, size - 1, *after))


def _fewer(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    for i, step in enumerate(steps):
        before, after = steps[:i], steps[i + 1 :]
        yield before + after
        for inner in step.inner:
            yield before + inner + after
        for k, inner in enumerate(step.inner):
            for fewer in _fewer(inner):
                sequences = (*step.inner[:k], fewer, *step.inner[k + 1 :])
                yield (*before, replace(step, inner=sequences), *after)
