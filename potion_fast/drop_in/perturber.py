"""What the classes of both public codes share: importances of a model's parameters, and the edit that dampens them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import ImportanceError, ModelError
from ..importances import Importance, Objective, importance
from ..importances.objectives import OBJECTIVES, cross_entropy
from ..utils.labels import check_targets
from ..utils.model import ModelParameters
from ..utils.warn import warn_caller
from .batches import Form, LabelledBatches, checked_label_at

Device = torch.device | str | int | None

DEFAULTS = {
    "lower_bound": 1,
    "exponent": 1,
    "magnitude_diff": None,
    "min_layer": -1,
    "max_layer": -1,
    "forget_threshold": 1,
    "dampening_constant": None,
    "selection_weighting": None,
}
NUMBERS = ("lower_bound", "exponent", "dampening_constant", "selection_weighting")  # the others are used nowhere


class Perturber:
    """Importances of a model's parameters, and the edit that dampens those that matter to the forget set.

    The numbers are attributes under the public code's names, read when `modify_weight` is called.

    Args:
        model: Parameters float32 and finite; `modify_weight` changes them in place.
        opt: Not used: no gradient is left in the model that an optimiser would have to clear.
        device: Where the model is; it is not moved, and the device may be left out.
        parameters: Values of the attributes by name.
        label_at: Position of the label in every batch, in place of the repository's own.

    Raises:
        ImportanceError: `parameters` that is no dict, or holds no number or one out of range.
        ModelError: Weights that are not float32 or not finite, or another device.
        DataError: A `label_at` out of range.

    Attributes:
        dampening_constant: λ, at least 0.
        selection_weighting: α, at least 0.
        exponent: Of λ · Ω_r / Ω_f.
        lower_bound: The cap on the factor, at least 0.
        magnitude_diff: Of no effect, as are `min_layer`, `max_layer`, `forget_threshold`, `alpha` and `xmin`.
    """

    form: ClassVar[Form]

    lower_bound: Any
    exponent: Any
    magnitude_diff: Any
    min_layer: Any
    max_layer: Any
    forget_threshold: Any
    dampening_constant: Any
    selection_weighting: Any

    def __init__(
        self,
        model: nn.Module,
        opt: object,
        device: Device = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        label_at: int | None = None,
    ) -> None:
        self.label_at = checked_label_at(label_at)
        self.model, self.opt = model, opt
        self.device = device_of(model) if device is None else device
        self.alpha: Any = None
        self.xmin = None
        self._read_parameters(parameters)
        check_model(model, self.device)

    def _read_parameters(self, parameters: Mapping[str, Any] | None) -> None:
        if not isinstance(parameters, Mapping):
            kind = type(parameters).__name__
            raise ImportanceError(f"parameters is a {kind}; it must be a dict of {', '.join(NUMBERS)}")
        if unknown := [str(key) for key in parameters if key not in DEFAULTS]:
            warn_caller(f"unknown parameters are ignored: {', '.join(unknown)}")
        for name, default in DEFAULTS.items():
            setattr(self, name, parameters.get(name, default))
        self._numbers()

    def get_layer_num(self, layer_name: str) -> int:
        """The number that is second in a dotted name, as 1 of "layer.1.weight"; -1 where there is none."""
        second = layer_name.split(".")[1:2]
        return int(second[0]) if second and second[0].isdecimal() else -1

    def zerolike_params_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """A zero tensor for every parameter of a model, by name, on its device."""
        return {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}

    def calc_importance(self, dataloader: Iterable[object]) -> dict[str, Tensor]:
        """Importances of all parameters over the samples of a loader.

        The model runs in eval mode and is left in its own. The square or the absolute value of the gradient of each
        batch's mean loss is averaged over the batches, so a small last batch weighs as much as a full one.

        Returns:
            By parameter name, float32 in the parameter's shape; zeros for frozen parameters.

        Raises:
            ImportanceError: A non-finite loss or importance.
            ModelError: Weights that are not finite.
            DataError: No samples, no labels where the objective needs them, or batches of another form.
        """
        return by_name(self.model, self.importance(self.batches(dataloader)))

    def modify_weight(self, original_importance: Mapping[str, Tensor], forget_importance: Mapping[str, Tensor]) -> None:
        """θ ← θ · min((λ · Ω_r / Ω_f)^exponent, lower_bound) wherever Ω_f > α · Ω_r, in place (eq. 1 of *Potion*).

        Args:
            original_importance: Ω_r as returned by `calc_importance`: a tensor for every parameter, finite and not
                negative.
            forget_importance: Ω_f, likewise.

        Raises:
            ImportanceError: Importances of another model, negative or not finite, or numbers out of range; the weights
                are unchanged.
            ModelError: Weights that are not float32 or not finite; they are unchanged.
        """
        numbers = self._numbers()
        retain, forget = self._checked(original_importance, forget_importance)
        self._dampen(retain, forget, numbers)

    def batches(self, loader: Iterable[object]) -> LabelledBatches:
        """The batches of a loader as `importance` reads them."""
        return LabelledBatches(loader, self.form, self.label_at)

    def importance(self, batches: LabelledBatches) -> Importance:
        """Importances over batches, as `calc_importance` has them before they are named.

        Raises:
            PotionError: See `calc_importance`.
        """
        computed = importance(self.model, batches, self._objective(batches), group_size="batch")
        batches.check_flags()
        return computed

    def _objective(self, batches: LabelledBatches) -> Objective:
        """SSD's, which sees how many classes there are."""

        def losses(outputs: Tensor, labels: Tensor) -> Tensor:
            check_targets(outputs, labels)
            batches.classes = outputs.shape[1]
            return cross_entropy(outputs, labels)

        return replace(OBJECTIVES["ssd"], losses=losses)

    def _checked(
        self, original: Mapping[str, Tensor], forget: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Flat importances of both in the model's order, checked as the model is."""
        check_model(self.model, self.device)
        parameters = dict(self.model.named_parameters())
        return _flat(original, parameters, "original"), _flat(forget, parameters, "forget")

    def _dampen(self, retain: list[Tensor], forget: list[Tensor], numbers: dict[str, float]) -> None:
        cap, exponent, dampening, alpha = (numbers[name] for name in NUMBERS)
        for parameter, f, r in zip(self.model.parameters(), forget, retain, strict=True):
            values = parameter.detach()
            weights = values.reshape(-1)  # a copy where the parameter is not contiguous
            if exponent == cap == 1:
                ops.dampen(weights, f, r, alpha, dampening)
            else:
                _dampen_by(weights, f, r, alpha, dampening, exponent, cap)
            if not values.is_contiguous():
                values.copy_(weights.view_as(values))

    def _numbers(self, names: Sequence[str] = NUMBERS) -> dict[str, float]:
        """The numbers of the edit, checked."""
        numbers = {}
        for name in names:
            value = getattr(self, name)
            if value is None:
                raise ImportanceError(f"parameters has no {name!r}; give it")
            if not isinstance(value, Real) or not math.isfinite(value) or (name != "exponent" and value < 0):
                least = "" if name == "exponent" else ", at least 0"
                raise ImportanceError(f"{name!r} must be a finite number{least}, not {value!r}")
            numbers[name] = float(value)
        return numbers


def tune(perturber: Perturber, forget_loader: Iterable[object], full_loader: Iterable[object]) -> None:
    """SSD: importances of S_f, those of the training data, and the edit; the model is left in eval mode."""
    forget = perturber.calc_importance(forget_loader)
    retain = perturber.calc_importance(full_loader)
    perturber.modify_weight(retain, forget)
    perturber.model.eval()


def device_of(model: nn.Module) -> torch.device:
    """Where a model is, by its first parameter."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def check_model(model: nn.Module, device: torch.device | str | int) -> None:
    """Raise ModelError unless all weights are float32, finite and on that device, ImportanceError if all are frozen."""
    ModelParameters(model).check()
    asked = checked_device(device)
    for name, parameter in model.named_parameters():
        there = parameter.device
        if there.type != asked.type or asked.index not in (None, there.index):
            raise ModelError(f"parameter {name!r} is on {there} and the device given is {asked}; move the model to it")
        if parameter.dtype != torch.float32:
            raise ModelError(f"parameter {name!r} is {parameter.dtype}; only float32 weights can be dampened")


def checked_device(device: torch.device | str | int) -> torch.device:
    """The device that is named; ModelError where there is none of that name."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"{device!r} is no device: {error}") from error


def by_name(model: nn.Module, importances: Importance) -> dict[str, Tensor]:
    """The means in the parameters' shapes, and zeros for frozen parameters."""
    parts = dict(importances.parts())
    return {
        name: importances.mean[parts[name]].view_as(parameter)
        if name in parts
        else torch.zeros_like(parameter, dtype=torch.float32)
        for name, parameter in model.named_parameters()
    }


def _flat(given: Mapping[str, Tensor], parameters: Mapping[str, Tensor], which: str) -> list[Tensor]:
    """Importances as flat float32 tensors [numel], one per parameter in the model's order."""
    if not isinstance(given, Mapping):
        raise ImportanceError(
            f"the {which} importances are a {type(given).__name__}, not the dict that calc_importance gives"
        )
    if given.keys() != parameters.keys():
        odd = next(iter(given.keys() ^ parameters.keys()))
        where = "are of another model: it has no" if odd in given else "lack"
        raise ImportanceError(f"the {which} importances {where} parameter {odd!r}")
    flat = []
    for name, parameter in parameters.items():
        value = given[name]
        if not isinstance(value, Tensor) or value.shape != parameter.shape or value.is_complex():
            kind = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ImportanceError(
                f"the {which} importances of parameter {name!r} are {kind}; its shape is {list(parameter.shape)}"
            )
        value = value.detach().to(device=parameter.device, dtype=torch.float32).reshape(-1)
        if not (value.isfinite() & (value >= 0)).all():
            raise ImportanceError(f"the {which} importances of parameter {name!r} are negative or not finite")
        flat.append(value)
    return flat


def _dampen_by(
    weights: Tensor, forget: Tensor, retain: Tensor, alpha: float, dampening: float, exponent: float, cap: float
) -> None:
    """θ ← θ · min((λ · Ω_r / Ω_f)^exponent, cap) wherever Ω_f > α · Ω_r, in place: `ops.dampen` generalised.

    The power is taken of every ratio of a parameter: torch's last bit depends on an element's position in its tensor.
    """
    selected = forget > _float32(alpha, retain) * retain  # the product decides, not the ratio
    factor = ((_float32(dampening, retain) * retain) / forget).pow(exponent).clamp(max=cap)
    weights.copy_(torch.where(selected, weights * factor, weights))


def _float32(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device=like.device)
