"""Networks, and the methods that sum the absolute gradients of their samples over a pass."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import potion_fast as pf
from potion_fast.bench.models import ResNet9
from potion_fast.importances.compiled import EAGER_BATCHES

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.networks import WideResNet, small_vit, with_statistics

Batch = tuple[Tensor, Tensor]
Sums = dict[str, Tensor]  # parameter -> Σ_k |∂ℓ_k/∂θ|, in its shape; parameters that a method cannot do are missing
Pass = Callable[[Iterable[Batch]], Sums]

CHUNK = 8  # samples of vmap_chunks


# --- The networks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    title: str
    make: Callable[[], nn.Module]
    pixels: int
    batch: dict[str, int]  # by device


NETWORKS = {
    "resnet9": Network("ResNet-9", lambda: ResNet9(10, width=64), 32, {"cpu": 64, "cuda": 512}),
    "wrn": Network("WRN-28-10", lambda: WideResNet(28, 10), 32, {"cpu": 16, "cuda": 512}),
    "vit": Network("ViT, width 192, 4 blocks", small_vit, 32, {"cpu": 32, "cuda": 512}),
    "vit_b16": Network("ViT-B/16", lambda: timm.create_model("vit_base_patch16_224"), 224, {"cpu": 8, "cuda": 128}),
}


@dataclass(frozen=True)
class Case:
    """A network in eval mode and a batch; `amp` computes in bfloat16 wherever autocast does."""

    model: nn.Module
    inputs: Tensor  # [B, 3, H, W]
    labels: Tensor  # [B]
    amp: bool = False

    @property
    def precision(self) -> str:
        return "bfloat16" if self.amp else "float32"

    def losses(self, outputs: Tensor) -> Tensor:
        """‖f(x)‖₂ of every sample (XLF, eq. 4 of *Potion*): [B, C] -> [B]."""
        return torch.linalg.vector_norm(outputs.float(), dim=1)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.inputs.device.type, torch.bfloat16) if self.amp else contextlib.nullcontext()


def make_case(network: str, batch: int, device: str = "cpu", amp: bool = False, channels_last: bool = False) -> Case:
    torch.manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    pixels = NETWORKS[network].pixels
    inputs = torch.randn(batch, 3, pixels, pixels, device=device).contiguous(memory_format=memory_format)
    model = NETWORKS[network].make().to(device, memory_format=memory_format)
    return Case(with_statistics(model, inputs), inputs, torch.zeros(batch, dtype=torch.long, device=device), amp)


# --- The methods ----------------------------------------------------------------------------------------------------


def stepwise(case: Case, step: Callable[[Sums, Tensor], None]) -> Pass:
    """A pass that adds one batch after another to its sums."""

    def run(batches: Iterable[Batch]) -> Sums:
        sums: Sums = {}
        for inputs, _ in batches:
            with case.autocast():
                step(sums, inputs)
        return sums

    return run


def add(sums: Sums, terms: Sums) -> None:
    new = {name: term for name, term in terms.items() if name not in sums}
    old = [name for name in terms if name in sums]
    sums.update(new)
    if old:
        torch._foreach_add_([sums[name] for name in old], [terms[name] for name in old])


def plain(case: Case) -> Pass:
    """Forward and backward of the batch mean: no importances."""
    parameters = list(case.model.parameters())

    def step(sums: Sums, inputs: Tensor) -> None:
        torch.autograd.grad(case.losses(case.model(inputs)).mean(), parameters)

    return stepwise(case, step)


def loop(case: Case) -> Pass:
    """One backward per sample."""
    names, parameters = zip(*case.model.named_parameters(), strict=True)

    def step(sums: Sums, inputs: Tensor) -> None:
        for sample in inputs.split(1):
            gradients = torch.autograd.grad(case.losses(case.model(sample)).sum(), parameters)
            add(sums, dict(zip(names, torch._foreach_abs(gradients), strict=True)))

    return stepwise(case, step)


def gradients_per_sample(case: Case) -> Callable[[Sums, Tensor], Sums]:
    def loss(parameters: Sums, sample: Tensor) -> Tensor:  # [3, H, W] -> []
        return case.losses(functional_call(case.model, parameters, (sample[None],))).sum()

    return vmap(grad(loss), in_dims=(None, 0))


def vmap_whole(case: Case, chunk: int | None = None) -> Pass:
    """torch.func: vmap(grad) over the batch; a gradient per sample is made and reduced, parameter by parameter."""
    parameters = {name: p.detach() for name, p in case.model.named_parameters()}
    gradients_of = gradients_per_sample(case)

    def step(sums: Sums, inputs: Tensor) -> None:
        for part in inputs.split(chunk or len(inputs)):
            gradients = gradients_of(parameters, part)  # each [B, *shape]
            add(sums, {name: gradients.pop(name).abs_().sum(0) for name in parameters})

    return stepwise(case, step)


def vmap_chunks(case: Case) -> Pass:
    """The same, CHUNK samples at a time."""
    return vmap_whole(case, CHUNK)


def vmap_compiled(case: Case) -> Pass:
    """The same, gradients and reduction compiled into one graph by torch.compile; compiling takes minutes."""
    parameters = {name: p.detach() for name, p in case.model.named_parameters()}
    gradients_of = gradients_per_sample(case)

    def sums_of(parameters: Sums, inputs: Tensor) -> Sums:
        return {name: g.abs().sum(0) for name, g in gradients_of(parameters, inputs).items()}

    torch._dynamo.reset()
    compiled = torch.compile(sums_of, dynamic=False, fullgraph=True)
    return stepwise(case, lambda sums, inputs: add(sums, compiled(parameters, inputs)))


def backpack(case: Case) -> Pass:
    """BackPACK's BatchGrad, each layer's gradients reduced and freed as soon as they are there."""
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    model = extend(copy.deepcopy(case.model))
    names = {p: name for name, p in model.named_parameters()}

    def step(sums: Sums, inputs: Tensor) -> None:
        def reduce(module: nn.Module) -> None:
            for p in module.parameters(recurse=False):
                if hasattr(p, "grad_batch"):
                    add(sums, {names[p]: p.grad_batch.abs_().sum(0)})
                    del p.grad_batch

        with backpack(BatchGrad(), extension_hook=reduce):
            case.losses(model(inputs)).sum().backward()
        model.zero_grad()

    return stepwise(case, step)


def opacus(case: Case, functorch: bool = False) -> Pass:
    """Opacus' GradSampleModule with its rules per layer.

    It records only in train mode, so the model is in train mode but for the layers with buffers (batch norm); those it
    refuses, and they are frozen. A module with parameters of its own it hands over to functorch as a whole, children
    included; parameters of a module with children (a class token, position embeddings) are frozen to keep its rules.
    """
    from opacus import GradSampleModule

    model = copy.deepcopy(case.model).train()
    for module in model.modules():
        has_buffers = next(module.buffers(recurse=False), None) is not None
        if has_buffers:
            module.eval()
        if has_buffers or (not functorch and next(module.children(), None) is not None):
            for p in module.parameters(recurse=False):
                p.requires_grad_(False)
    wrapped = GradSampleModule(model, loss_reduction="sum", strict=False, force_functorch=functorch)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def step(sums: Sums, inputs: Tensor) -> None:
        case.losses(wrapped(inputs)).sum().backward()
        for name, p in trainable.items():
            add(sums, {name: p.grad_sample.abs_().sum(0)})
            p.grad_sample = p.grad = None

    return stepwise(case, step)


def opacus_functorch(case: Case) -> Pass:
    """The same with force_functorch: every layer, or the whole of a model with parameters of its own, by torch.func."""
    return opacus(case, functorch=True)


def plain_compiled(case: Case) -> Pass:
    """Forward and backward of the batch mean, compiled by torch.compile."""
    return plain(replace(case, model=torch.compile(case.model, dynamic=False)))


def potion_fast(case: Case, compiled: bool = False) -> Pass:
    def run(batches: Iterable[Batch]) -> Sums:
        with case.autocast():
            result = pf.importance(case.model, batches, objective="xlf", group_size=1, compiled=compiled)
        return {name: result.sums[part].view(result.shapes[name]) for name, part in result.parts()}

    return run


def potion_fast_compiled(case: Case) -> Pass:
    """With compiled=True: from the third batch on."""
    return potion_fast(case, compiled=True)


@dataclass(frozen=True)
class Method:
    title: str
    prepare: Callable[[Case], Pass]
    package: str = ""  # of the extra `rivals`, where it needs one
    slow_start: bool = False  # the first call takes minutes, and memory of its own
    first: int = 1  # batches of every call that are not like the others


METHODS = {
    "plain": Method("plain forward and backward", plain),
    "plain_compiled": Method("the same, `torch.compile`", plain_compiled, slow_start=True),
    "loop": Method("loop over samples", loop),
    "vmap": Method("`vmap(grad)`", vmap_whole),
    "vmap_chunks": Method(f"`vmap(grad)`, {CHUNK} samples at a time", vmap_chunks),
    "vmap_compiled": Method("`torch.compile(vmap(grad))`", vmap_compiled, slow_start=True),
    "backpack": Method("BackPACK", backpack, "backpack-for-pytorch"),
    "opacus": Method("Opacus", opacus, "opacus"),
    "opacus_functorch": Method("Opacus, `force_functorch`", opacus_functorch, "opacus"),
    "potion_fast": Method("**potion_fast**", potion_fast),
    "potion_fast_compiled": Method(
        "**potion_fast**, `compiled=True`", potion_fast_compiled, slow_start=True, first=EAGER_BATCHES + 1
    ),
}


def missing(method: str) -> str:
    """Why a method cannot run here; empty if it can."""
    package = METHODS[method].package
    try:
        importlib.metadata.version(package or "torch")
    except importlib.metadata.PackageNotFoundError:
        return f"{package} is not installed; it comes with the extra `bench`: pip install 'potion-fast[bench]'"
    return ""
