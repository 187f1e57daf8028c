"""The public interface of Potion's code (`towards_poison_unlearning`): its user changes an import and nothing else.

    from potion_fast.drop_in.potion import alfssd_tuning, assd_tuning, ssd_tuning

Batches are (image, label, manipulation flag), the flag an integer or a bool, or (image, label). `label_at=` says where
the label is in others; LF and XLF read none. The arithmetic is that of mode "reference", to the bit on a CPU: the
gradient of each batch's mean loss, LF as the norm squared, percentiles as NumPy has them, and the order in which the
data are read. (Outputs [B, C, ...] with more dimensions have the same norms, but within rounding.) A model is left as
the public code leaves it: in eval mode, its weights changed in place.

What is different: nothing is printed or written to the current directory, what the steps of a search share stays in
memory; no gradient is left in the model; the classes run it in eval mode whatever its own is; bad input is an error or
a warning of `potion_fast.errors`. The search itself is `potion_fast.unlearn(..., mode="reference")`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import DataError, ImportanceError, SearchError
from ..importances import Objective
from ..importances.objectives import REFERENCE_OBJECTIVES
from ..percentiles import percentile_of
from ..utils.warn import warn_caller
from .batches import POTION, LabelledBatches
from .kept import importances_of_step
from .perturber import DEFAULTS, Device, Perturber, by_name, checked_device, device_of, tune

__all__ = ["ParameterPerturber", "ParameterPerturber_old", "alfssd_tuning", "assd_tuning", "ssd_tuning"]

NOISE = 0.01  # standard deviation of `extra_noise`
ADAPTIVE = "Adaptive"  # α and λ before a percentile is known


class ParameterPerturber_old(Perturber):  # noqa: N801 - the public code's name
    """SSD with given settings, the class that `ssd_tuning` uses; see `Perturber` for arguments and attributes."""

    form = POTION


class ParameterPerturber(Perturber):
    """Importances by SSD, LF or XLF, and the edit with a threshold taken from a percentile.

    Args:
        model: Moved to the device; parameters float32 and finite. `modify_weight` changes them in place.
        opt: Not used: no gradient is left in the model that an optimiser would have to clear.
        device: Left out: a GPU if there is one, as in the public code, or else where the model is.
        parameters: With `adaptive` of no effect, as in the public code: the attributes `lower_bound` and `exponent` are
            1, α is the percentile and λ is 1. Without it the numbers are those of `parameters`, as in
            `ParameterPerturber_old`; the public code has none then, and ends in an error.
        adaptive: α is a percentile of Ω_f / Ω_r, and λ is 1.
        label_free: LF instead of SSD: Ω is the mean |∂‖f(x)‖² / ∂θ|, not (∂CE / ∂θ)². The norm is over dimension 1.
        x_D: With `label_free`: XLF, |∂‖f(x)‖ / ∂θ|.
        label_at: Position of the label in every batch, in place of 1.

    Raises:
        PotionError: See `Perturber`.

    Attributes:
        selection_weighting: With `adaptive`: "Adaptive" until `modify_weight` sets it to the α that it used.
        dampening_constant: With `adaptive`: "Adaptive", then 1.
        alpha: `parameters`' selection_weighting, of no effect.
    """

    form = POTION

    def __init__(
        self,
        model: nn.Module,
        opt: object,
        device: Device = None,
        parameters: Mapping[str, Any] | None = None,
        adaptive: bool = False,
        label_free: bool = False,
        x_D: bool = False,  # noqa: N803 - the public code's name
        *,
        label_at: int | None = None,
    ) -> None:
        if x_D and not label_free:
            raise ImportanceError("x_D makes XLF of LF; set label_free=True as well")
        self.adaptive, self.label_free, self.x_D = adaptive, label_free, x_D
        if device is None:
            device = torch.device("cuda") if torch.cuda.is_available() else device_of(model)
        model.to(checked_device(device))
        super().__init__(model, opt, device, parameters, label_at=label_at)

    def _read_parameters(self, parameters: Mapping[str, Any] | None) -> None:
        if not self.adaptive:
            super()._read_parameters(parameters)
        else:
            given = {} if parameters is None else parameters
            for name, default in DEFAULTS.items():
                setattr(self, name, default)
            self.dampening_constant = self.selection_weighting = ADAPTIVE
            if changed := [name for name in ("lower_bound", "exponent") if given.get(name, 1) != 1]:
                warn_caller(
                    f"{' and '.join(changed)} of parameters have no effect with adaptive=True: set the attribute"
                )
        self.alpha = None if parameters is None else parameters.get("selection_weighting")

    def calc_importance(self, dataloader: Iterable[object], extra_noise: bool = False) -> dict[str, Tensor]:
        """Importances of all parameters over the samples of a loader; see `Perturber.calc_importance`.

        Args:
            dataloader: Batches (image, label, flag).
            extra_noise: Add N(0, 0.01²) to every input, drawn from the global generator of the device.
        """
        batches = LabelledBatches(
            dataloader, self.form, self.label_at, not self.label_free, self._noisy if extra_noise else None
        )
        return by_name(self.model, self.importance(batches))

    def modify_weight(
        self,
        original_importance: Mapping[str, Tensor],
        forget_importance: Mapping[str, Tensor],
        PERCENTILE: float | Tensor | None = None,  # noqa: N803 - the public code's name
        x_D: bool = False,  # noqa: N803 - the public code's name
    ) -> None:
        """θ ← θ · min((λ · Ω_r / Ω_f)^exponent, lower_bound) wherever Ω_f > α · Ω_r, in place (eq. 1 of *Potion*).

        Args:
            original_importance: Ω_r as returned by `calc_importance`.
            forget_importance: Ω_f, likewise.
            PERCENTILE: p in [0, 100], required if `adaptive`: α is that percentile of the finite Ω_f / Ω_r over all
                parameters, by linear interpolation.
            x_D: Of no effect, as in the public code.

        Raises:
            PotionError: See `Perturber.modify_weight`; SearchError for PERCENTILE missing or out of range. The weights
                are unchanged.
        """
        if not self.adaptive:
            if PERCENTILE is not None:
                warn_caller("PERCENTILE is of no effect without adaptive=True: α is selection_weighting")
            super().modify_weight(original_importance, forget_importance)
            return
        if PERCENTILE is None:
            raise SearchError("adaptive=True takes α from a percentile; give PERCENTILE, in [0, 100]")
        percentile = _number(PERCENTILE)
        if not 0 <= percentile <= 100:
            raise SearchError(f"PERCENTILE must be in [0, 100], not {PERCENTILE!r}")
        numbers = self._numbers(("lower_bound", "exponent"))
        retain, forget = self._checked(original_importance, forget_importance)
        alpha = float(ops.select(torch.cat(forget), torch.cat(retain), [percentile]))
        if math.isnan(alpha):
            warn_caller("no weight has a finite ratio of importances: there is nothing to select by")
        self.dampening_constant, self.selection_weighting = 1, alpha
        self._dampen(retain, forget, {**numbers, "dampening_constant": 1.0, "selection_weighting": alpha})

    def batches(self, loader: Iterable[object]) -> LabelledBatches:
        """The batches of a loader as `importance` reads them."""
        return LabelledBatches(loader, self.form, self.label_at, not self.label_free)

    def _objective(self, batches: LabelledBatches) -> Objective:
        if not self.label_free:
            return super()._objective(batches)
        return REFERENCE_OBJECTIVES["xlf" if self.x_D else "lf"]

    def _noisy(self, inputs: Any) -> Tensor:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
            raise DataError(f"extra_noise is added to inputs of floating-point numbers, not {kind}")
        inputs = inputs.to(self.device)
        return inputs + NOISE * torch.randn_like(inputs)


def ssd_tuning(
    model: nn.Module,
    forget_train_dl: Iterable[object],
    dampening_constant: float,
    selection_weighting: float,
    full_train_dl: Iterable[object],
    device: torch.device | str | int,
    *,
    label_at: int | None = None,
) -> nn.Module:
    """SSD with given settings: θ ← θ · min(λ · Ω_r / Ω_f, 1) wherever Ω_f > α · Ω_r.

    Args:
        model: Changed in place, and left in eval mode.
        forget_train_dl: S_f; its importances are computed first.
        dampening_constant: λ, at least 0.
        selection_weighting: α, at least 0.
        full_train_dl: The training data without S_f, as Potion's bench gives it.
        device: Of the model.
        label_at: Position of the label in every batch, in place of 1.

    Returns:
        The model.

    Raises:
        PotionError: As `ParameterPerturber_old` and its methods do; the model is then unchanged.
    """
    numbers = {"dampening_constant": dampening_constant, "selection_weighting": selection_weighting}
    tune(ParameterPerturber_old(model, None, device, numbers, label_at=label_at), forget_train_dl, full_train_dl)
    return model


def assd_tuning(
    model: nn.Module,
    forget_train_dl: Iterable[object],
    dampening_constant: object,
    selection_weighting: object,
    full_train_dl: Iterable[object],
    device: torch.device | str | int,
    frac_dl: float | Tensor,
    *,
    label_at: int | None = None,
) -> nn.Module:
    """SSD with λ = 1 and α the percentile p = 100 − ln(1 + 100 · s) of Ω_f / Ω_r (eq. 7): one step of PTN.

    PTN (algorithm 1) calls this with the original weights for s = share / 25, then s ← 1.1 · s, until the accuracy on
    S_f has fallen to ρ of the original. Its steps share one pair of importances, which the public code pickles in the
    current directory and removes when a search begins; here they stay in memory while both loaders live, and serve each
    call that has the same loaders (the same objects, which support weak references, as a DataLoader does), weights,
    buffers and objective as the call before, and a larger s. Any other call begins a search and reads the data.

    Args:
        model: Changed in place, moved to the device, and left in eval mode.
        forget_train_dl: S_f.
        dampening_constant: Of no effect, as in the public code.
        selection_weighting: Of no effect, as in the public code.
        full_train_dl: S_tr without S_f, as Potion's bench gives it; its importances are computed first.
        device: Where the model is moved.
        frac_dl: s, at least 0; at 0, p is 100. A tensor is read as its number.
        label_at: Position of the label in every batch, in place of 1.

    Returns:
        The model.

    Raises:
        PotionError: As `ParameterPerturber` and its methods do; SearchError for `frac_dl` out of range. The weights are
            then unchanged.
    """
    percentile = _percentile(frac_dl)
    perturber = ParameterPerturber(model, None, device, {}, adaptive=True, label_at=label_at)
    return _step(perturber, forget_train_dl, full_train_dl, frac_dl, percentile)


def alfssd_tuning(
    model: nn.Module,
    forget_train_dl: Iterable[object],
    dampening_constant: object,
    selection_weighting: object,
    full_train_dl: object,
    device: torch.device | str | int,
    frac_dl: float | Tensor,
    filtered_loader: Iterable[object],
    x_D: bool = False,  # noqa: N803 - the public code's name
) -> nn.Module:
    """`assd_tuning` with label-free importances: LF, or XLF if `x_D`.

    Args:
        model: See `assd_tuning`.
        forget_train_dl: See `assd_tuning`.
        dampening_constant: Of no effect, as in the public code.
        selection_weighting: Of no effect, as in the public code.
        full_train_dl: Not read, as in the public code.
        device: See `assd_tuning`.
        frac_dl: See `assd_tuning`.
        filtered_loader: S_tr without S_f; its importances are computed first.
        x_D: XLF instead of LF.

    Returns:
        The model.

    Raises:
        PotionError: See `assd_tuning`.
    """
    percentile = _percentile(frac_dl)
    perturber = ParameterPerturber(model, None, device, {}, adaptive=True, label_free=True, x_D=x_D)
    return _step(perturber, forget_train_dl, filtered_loader, frac_dl, percentile)


def _step(
    perturber: ParameterPerturber,
    forget_loader: Iterable[object],
    retain_loader: Iterable[object],
    s: float | Tensor,
    percentile: float,
) -> nn.Module:
    model, name = perturber.model, ("xlf" if perturber.x_D else "lf") if perturber.label_free else "ssd"
    retain, forget = importances_of_step(perturber, name, retain_loader, forget_loader, _number(s))
    perturber.modify_weight(by_name(model, retain), by_name(model, forget), percentile)
    return model.eval()


def _percentile(frac_dl: float | Tensor) -> float:
    """The percentile of eq. 7, for s of at least 0."""
    s = _number(frac_dl)
    if not (s >= 0 and s < math.inf and percentile_of(s) >= 0):
        raise SearchError(f"frac_dl is s of p = 100 − ln(1 + 100 · s): at least 0, with p in [0, 100], not {frac_dl!r}")
    return percentile_of(s)


def _number(value: object) -> float:
    """A number, or a tensor or array of one, as a float; NaN for anything else, which is in no range."""
    if isinstance(value, str | bytes) or (isinstance(value, Tensor) and value.numel() != 1):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]  # what has no number in it raises
    except (TypeError, ValueError):
        return math.nan
