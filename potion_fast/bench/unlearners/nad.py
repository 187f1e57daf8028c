"""NAD: the student's attention maps follow those of a fine-tuned teacher (Li et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ...errors import ModelError
from ...utils.batches import inputs_and_labels
from ...utils.copies import copy_model
from ..training.train import Batch, cross_entropy
from .base import Loaders, Unlearned
from .clean_data import CleanFinetuning, clean_samples
from .registry import register_unlearner
from .stages import stages

LAST = 3  # layers that are compared, by default


@register_unlearner("nad")
class NAD(CleanFinetuning):
    """CE + β Σ_l ‖A_l / ‖A_l‖ − A′_l / ‖A′_l‖‖² on the clean samples, where A = Σ_channels F² of layer l's output F.

    *Neural Attention Distillation*: the teacher (A′) is the given model fine-tuned on the clean samples by
    cross-entropy, the student starts from the given model. The squared distance is a mean over the places of a map and
    over the batch. Of outputs [B, T, D] (tokens) a map has a place for each token.

    Attributes:
        beta: β.
        teacher_epochs: of the teacher's fine-tuning.
        layers: names of the modules whose outputs are compared; None: the last three of the model's stages with maps of
            channels, or tokens.
    """

    epochs: PositiveInt = 20
    beta: NonNegativeFloat = 500.0
    teacher_epochs: PositiveInt = 10
    lr: PositiveFloat = 0.01
    layers: Annotated[Sequence[str], Field(min_length=1)] | None = None

    @override
    def unlearn(self, model: nn.Module, loaders: Loaders, progress: bool) -> Unlearned:
        loader, teacher = clean_samples(loaders, self.name), copy_model(model)
        taught = self.updated(epochs=self.teacher_epochs, budget=None).finetune(
            teacher, loader, loaders.validation, progress
        )
        teacher.eval().requires_grad_(False)
        names = self.layers or layers_with_maps(teacher, loader)

        def loss(student: nn.Module, batch: Batch) -> Tensor:
            with torch.no_grad(), outputs_of(teacher, names) as theirs:
                teacher(batch[0])
            with outputs_of(student, names) as ours:
                value = cross_entropy(student, batch)
            for name in names:
                value = value + self.beta * F.mse_loss(attention(ours[name]), attention(theirs[name]))
            return value

        done = self.finetune(copy_model(model), loader, loaders.validation, progress, loss=loss)
        done.gradient_steps += taught.gradient_steps
        done.seconds["teacher"] = taught.seconds["training"]
        return done


def attention(outputs: Tensor) -> Tensor:
    """A / ‖A‖₂ of each sample, flat: [B, places] of outputs [B, C, H, W] or, of tokens, [B, T, D]."""
    maps = outputs.square().sum(1 if outputs.ndim == 4 else -1).flatten(1)
    return F.normalize(maps, dim=1)


def layers_with_maps(model: nn.Module, loader: Any) -> list[str]:
    """The model's last three stages whose outputs are maps of channels or tokens.

    Raises:
        ModelError: there is none.
    """
    names = stages(model)
    inputs = inputs_and_labels(next(iter(loader)))[0][:1].to(next(model.parameters()).device)
    with torch.no_grad(), outputs_of(model, names) as outputs:
        model(inputs)
    found = [name for name, output in outputs.items() if output.ndim in (3, 4) and output.shape[1] > 1]
    if not found:
        raise ModelError("no stage of the model gives maps of channels or tokens; name the modules: layers=[...]")
    return found[-LAST:]


@contextmanager
def outputs_of(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of these modules, by name, as the model runs."""
    outputs: dict[str, Tensor] = {}

    def keeping(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: object) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output

        return keep

    try:
        hooks = [model.get_submodule(name).register_forward_hook(keeping(name)) for name in names]
    except AttributeError as error:
        raise ModelError(f"layers={list(names)}: {error}") from error
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
