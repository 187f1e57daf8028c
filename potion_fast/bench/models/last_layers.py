"""The last layers of a model, for the methods that leave its beginning alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ...errors import ModelError
from .language import is_linear


def last_modules(model: nn.Module, k: int | Sequence[str] | None) -> tuple[str, ...]:
    """Names of the modules that make up the end of a model.

    Args:
        model: the model.
        k: the last k layers of weights, in one of the splits of the public code (ResNet-9: 2 or 4; WRN-28-10: 5 or 13);
            None: the smallest of them; or the names themselves, for any model.

    Returns:
        The names.

    Raises:
        ModelError: another k, or a name that the model does not have.
    """
    if k is None or isinstance(k, int):
        splits: Mapping[int, tuple[str, ...]] = getattr(model, "splits", {})
        if not splits:
            raise ModelError(f"a {type(model).__name__} has no splits of its own; name the modules of its end in k")
        k = min(splits) if k is None else k
        if k not in splits:
            raise ModelError(
                f"a {type(model).__name__} is not split at k={k}; choose one of {', '.join(map(str, splits))}"
            )
        return splits[k]
    if isinstance(k, str) or not k:
        raise ModelError(f"k must be a number or a list of names of modules, not {k!r}")
    known = dict(model.named_modules())
    if missing := [name for name in k if name not in known]:
        raise ModelError(
            f"a {type(model).__name__} has no module {missing[0]!r}; its own are {', '.join(filter(None, known))}"
        )
    return tuple(k)


def last_layers(model: nn.Module, k: int) -> tuple[str, ...]:
    """Names of the last k convolutions and linear layers of any model, and of the batch norms behind the first of them.

    The order is that in which the model registers its modules, which for most is that of their use. The "last k layers"
    of Pawelczyk et al. are not defined there; ResNet-18's last 3 are its last two convolutions and the linear layer.

    GPT-2's Conv1D is a linear layer. One whose weight is also that of a module before it, as a causal language model's
    output layer has that of the token embedding, is passed over: with it the model's beginning would change.

    Args:
        model: the model.
        k: number of layers.

    Returns:
        The names.

    Raises:
        ModelError: k below 1 or above the number of such layers.
    """
    kinds, first = (_ConvNd, _BatchNorm), {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - first
    modules = [
        (name, module)
        for name, module in model.named_modules()
        if (isinstance(module, kinds) or is_linear(module)) and f"{name}.weight" not in tied
    ]
    layers = [index for index, (_, module) in enumerate(modules) if not isinstance(module, _BatchNorm)]
    if not 1 <= k <= len(layers):
        raise ModelError(
            f"a {type(model).__name__} has {len(layers)} convolutions and linear layers; k={k} is not one of 1 to that"
        )
    return tuple(name for name, _ in modules[layers[-k] :])
