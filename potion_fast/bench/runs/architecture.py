"""The model of a training, and its loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...errors import ModelError, PotionError
from ...user.user_code import where_raised
from ...utils.model import evaluating
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
    try:
        model = create_model(arguments["architecture"], arguments["num_classes"], arguments["in_channels"], **options)
    except (MemoryError, RuntimeError, TypeError, ValueError) as error:  # of torch, of sizes that cannot be
        if isinstance(error, PotionError):
            raise
        raise ModelError(f"the model {config.model!r} cannot be made with {options}: {where_raised(error)}") from error
    _check_outputs(model, str(config.model), splits)
    return model


def _check_outputs(model: nn.Module, name: str, splits: Splits) -> None:
    """Raise ModelError unless the model takes one of the samples, and can be trained to tell the classes apart."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"the model {name!r} has no trainable parameter")
    sample, classes = splits.sample(), len(splits.classes)
    given = f"{splits.sample_name} {list(sample.shape)}"
    try:
        with evaluating(model):
            outputs = model(sample)
    except PotionError:
        raise
    except Exception as error:  # of the user's own code, or of torch
        raise ModelError(f"the model {name!r} does not take one {given}: {where_raised(error)}") from error
    shape = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if shape != [1, classes]:
        raise ModelError(
            f"the model {name!r} must give logits [1, {classes}] for one {given}, one for each class of the data, and "
            f"gives {shape}"
        )
    if not (outputs.is_floating_point() and outputs.requires_grad):
        raise ModelError(f"the outputs of the model {name!r} have no gradient, so that it cannot be trained")


def loss_of(config: TrainConfig) -> Loss:
    """The loss that is minimised: the label's cross-entropy, or that of a whole text with its label."""
    return over_text if config.loss_over == "text" else cross_entropy


def over_text(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of every next token and of the label behind the last, in nats."""
    assert isinstance(model, LanguageModel)  # see `check_text`
    return model.text_loss(batch[0], batch[1])
