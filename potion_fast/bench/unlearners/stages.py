"""Stages of a model: the parts that its data go through one after another, as far as its modules tell."""

from __future__ import annotations

from torch import nn

MOST = 0.9  # share of the parameters from which a child is looked into: it is the model, and the rest a wrapper


def stages(model: nn.Module, prefix: str = "") -> list[str]:
    """Names of the model's children, with those of its lists and sequences, and of a child that is most of the model.

    Args:
        model: the model.
        prefix: of the names.
    """
    whole, names = sum(parameter.numel() for parameter in model.parameters()), []
    for name, child in model.named_children():
        path, parts = f"{prefix}{name}", [part for part, _ in child.named_children()]
        own = sum(parameter.numel() for parameter in child.parameters())
        if len(parts) > 1 and isinstance(child, nn.Sequential | nn.ModuleList):
            names += [f"{path}.{part}" for part in parts]
        elif parts and own > MOST * whole:
            names += stages(child, f"{path}.")
        else:
            names.append(path)
    return names
