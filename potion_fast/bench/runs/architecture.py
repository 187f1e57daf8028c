"""The model of a training, and its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...utils.predict import predict
from ..configs import TrainConfig
from ..data import Splits
from ..models import LanguageModel, create_model
from ..training.train import Batch, Loss, cross_entropy


def architecture(config: TrainConfig, splits: Splits) -> dict[str, Any]:
    """Arguments of `save_model`, for the model of these data."""
    sizes = {name: getattr(config, name) for name in ("width", "layers")}
    return {
        "architecture": config.model,
        "num_classes": len(splits.classes),
        "in_channels": splits.channels,
        "options": {name: value for name, value in sizes.items() if value is not None} | splits.model_options,
        "classes": list(splits.classes),
    }


def fresh_model(config: TrainConfig, splits: Splits) -> nn.Module:
    """A new model, with pretrained weights where the training starts from them.

    Args:
        config: of the training.
        splits: its data.

    Raises:
        ModelError: the model is unknown, or the samples do not fit it.
    """
    arguments = architecture(config, splits)
    options = {**arguments["options"], "pretrained": config.pretrained}
    model = create_model(arguments["architecture"], arguments["num_classes"], arguments["in_channels"], **options)
    predict(model, [(splits.sample(), torch.zeros(1))])
    return model


def loss_of(config: TrainConfig) -> Loss:
    """The loss that is minimised: the label's cross-entropy, or that of a whole text with its label."""
    return over_text if config.loss_over == "text" else cross_entropy


def over_text(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of every next token and of the label behind the last, in nats."""
    assert isinstance(model, LanguageModel)  # see `check_text`
    return model.text_loss(batch[0], batch[1])
