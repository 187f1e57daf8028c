"""Importances by a loop over groups in float64, which the tests of the engine compare with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import potion_fast as pf
from helpers.toys import assert_same_weights, batches, weights
from potion_fast.importances.objectives import OBJECTIVES

LABELS = torch.tensor([0, 1, 2]).repeat(30)


def loop(model, inputs, objective="xlf", group_size=1, losses=None):
    """Mean |gradient| or gradient² over groups: one backward pass for each, in the dtype of the model.

    `group_size` may be the list of all groups' sizes.
    """
    chosen = OBJECTIVES.get(objective)
    losses = losses or chosen.losses
    training = [module for module in model.modules() if module.training]
    model.eval()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    parts = list(zip(inputs.split(group_size), LABELS[: len(inputs)].split(group_size), strict=True))
    kept = [parameter.grad for parameter in parameters.values()]
    for x, y in parts:
        for parameter in parameters.values():
            parameter.grad = None
        loss = losses(model(x), y).mean()
        if loss.requires_grad:  # otherwise nothing of this group reads a parameter
            loss.backward()  # autograd.grad is not for reentrant checkpoints
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                gradient = parameter.grad.to_dense()  # that of a sparse embedding is not
                total[name] += gradient.square() if chosen is not None and chosen.square else gradient.abs()
    for parameter, gradient in zip(parameters.values(), kept, strict=True):
        parameter.grad = gradient
    for module in training:
        module.training = True
    return {name: sums / len(parts) for name, sums in total.items()}


def assert_equals_loop(model, inputs, objective="xlf", group_size=1, batch=64, losses=None):
    """Every parameter, to 1e-12 of its norm; returns the importances."""
    before = weights(model)
    hooks = [(*m._forward_hooks, *m._forward_pre_hooks) for m in model.modules()]
    data = batches(inputs, LABELS[: len(inputs)], batch)
    got = pf.importance(model, data, losses or objective, group_size=group_size, dtype=torch.float64)
    for name, want in loop(model, inputs, objective, group_size, losses).items():
        error = torch.linalg.vector_norm(got[name] - want)
        assert error <= 1e-12 * torch.linalg.vector_norm(want), f"{name}: {error}"
    assert_same_weights(model, before)
    assert all(p.requires_grad for p in model.parameters())
    assert hooks == [(*m._forward_hooks, *m._forward_pre_hooks) for m in model.modules()]
    return got


def perturbed(model: nn.Module, inputs: Tensor) -> nn.Module:
    """In float64 and train mode, no parameter at its initial 0, batch norms with statistics of the inputs."""
    torch.manual_seed(1)
    model = model.double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        model(inputs)
    return model


def images(n: int, size: int) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
