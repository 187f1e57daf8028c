"""Re-initialisation of a model: the public code's."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ...errors import ModelError
from .language import LanguageModel, is_conv1d

OTHER_NAMES = ("_reset_parameters", "init_weights")  # of `reset_parameters`: in torch's attention, in timm


def initialise(model: nn.Module) -> None:
    """Draw a model's weights anew, in place, from torch's global generator, as the public code does.

    Each module's own `reset_parameters()`, which for convolutions and linear layers is Kaiming uniform with a = √5 and
    for batch norms forgets the running statistics too; then all biases of convolutions and linear layers are 0. It is
    what a fresh model starts from in mode "reference", and what EU, EUk and the random teacher of BadT start from.

    A whole language model draws its weights as its architecture does; a Conv1D of one, N(0, 0.02²), as its maker does.

    Args:
        model: the model.

    Raises:
        ModelError: no module can reset a parameter, which is named; some of the others are then new already.
    """
    before = {name: (parameter, parameter._version) for name, parameter in model.named_parameters()}
    with torch.no_grad():
        if isinstance(model, LanguageModel):
            model.initialise()
        else:
            for module in model.modules():
                _reset(module)
        after = {name: (parameter, parameter._version) for name, parameter in model.named_parameters()}
        old = [name for name, (was, version) in before.items() if was is after[name][0] and version == after[name][1]]
        if old:
            raise ModelError(
                f"no module resets the parameters {', '.join(old)}: their owners have no reset_parameters(). "
                "Give a function that makes an untrained model instead"
            )
        zero_biases(model)


def _reset(module: nn.Module) -> None:
    """Draw anew what the module itself owns, where it knows how."""
    owns = any(parameter is not None for parameter in module._parameters.values())
    names = ("reset_parameters", *OTHER_NAMES) if owns else ("reset_parameters",)
    reset = next((getattr(module, name) for name in names if callable(getattr(module, name, None))), None)
    if reset is not None:
        reset()
    elif is_conv1d(module):
        layer = cast(nn.Linear, module)  # but for the order of its weight's dimensions
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)


def zero_biases(model: nn.Module) -> None:
    """Set the bias of every convolution and linear layer to 0."""
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
