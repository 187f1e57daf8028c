"""The public interface of the SSD and Potion code, under its own names: its user changes an import and nothing else.

    from potion_fast.drop_in import ParameterPerturber, alfssd_tuning, assd_tuning, ssd_tuning

Written from the description of its interface; the arithmetic is this library's in mode "reference", to the bit. Three
things differ. Nothing is written to the current directory: what the steps of PTN share stays in memory. The model keeps
its mode (train or eval) and its gradients. Bad input is an error or a warning of `potion_fast.errors`.

Batches of three: SSD's loaders give (x, _, y), the label third; Potion's give (x, y, flag), the label second and then
whether the sample is in the forget set. Both codes use the names `ParameterPerturber` and `ssd_tuning`, so the label is
recognised by what the batch holds: a bool tensor is the flag; what is no tensor, or a flat float tensor, is no label
either. If both could be labels the third is used, or the second with `adaptive`, which is Potion's. `label_at=1` or
`label_at=2` states it explicitly. LF and XLF read no label at all.

Where the description leaves a choice: each function changes the model in place and returns it. `frac_dl` is s of eq. 7:
no function takes ρ, so one call is one step, and the loop over s is the caller's. `filtered_loader`, by its name, is
the training data without the forget set.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import ops
from .errors import DataError, ImportanceError, ModelError, PotionWarning, SearchError
from .importances import Importance, importance
from .percentiles import percentile_of
from .utils.batches import count_samples
from .utils.crc import crc32
from .utils.model import ModelParameters

__all__ = ["ParameterPerturber", "alfssd_tuning", "assd_tuning", "ssd_tuning"]

SECOND, THIRD = 1, 2  # places of a label in a batch
USED = ("lower_bound", "exponent", "dampening_constant", "selection_weighting")
UNUSED = ("magnitude_diff", "min_layer", "max_layer", "forget_threshold")  # nor does the public code use these


class ParameterPerturber:
    """Importances of a model's parameters, and the edit that dampens those that matter to the forget set.

    Args:
        model: Parameters float32 and finite; `modify_weight` changes them in place.
        opt: Not used: no gradient is left in the model that an optimiser would have to clear.
        device: The device of the model.
        parameters: Numbers by name. "dampening_constant" is λ and "selection_weighting" is α, both at least 0 and
            without effect if `adaptive`; "exponent" is that of λ · Ω_r / Ω_f, 1 by default; "lower_bound" is the cap on
            the factor, at least 0, 1 by default. "magnitude_diff", "min_layer", "max_layer" and "forget_threshold" are
            ignored, as in the public code.
        adaptive: α is a percentile of Ω_f / Ω_r, and λ is 1.
        label_free: LF instead of SSD: Ω is the mean |∂‖f(x)‖² / ∂θ|, not (∂CE / ∂θ)².
        x_D: With `label_free`: XLF, |∂‖f(x)‖ / ∂θ|.
        label_at: The position of the label in a batch of three or more, 1 or 2; see the module.

    Raises:
        ImportanceError: Flags or `parameters` that are out of range or contradict each other.
        ModelError: Weights that are not float32 or not finite, or another device.
        DataError: A `label_at` out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        opt: object,
        device: torch.device | str | int,
        parameters: Mapping[str, Any],
        *,
        adaptive: bool = False,
        label_free: bool = False,
        x_D: bool = False,  # noqa: N803 - the public code's name
        label_at: int | None = None,
    ) -> None:
        if x_D and not label_free:
            raise ImportanceError("x_D makes XLF of LF; set label_free=True as well")
        if label_at not in (None, SECOND, THIRD):
            raise DataError(f"label_at is the label's place in a batch (x, ...), 1 or 2, not {label_at!r}")
        self.model, self.opt, self.device, self.parameters = model, opt, device, parameters
        self.adaptive, self.label_free, self.x_D, self.label_at = adaptive, label_free, x_D, label_at
        self.objective = ("xlf" if x_D else "lf") if label_free else "ssd"
        _check_model(model, device)
        self._numbers = _numbers(parameters, adaptive)

    def calc_importance(self, dataloader: Iterable[object]) -> dict[str, Tensor]:
        """Importances of all parameters over the samples of a loader.

        The model runs in eval mode. The square or the absolute value of the gradient of each batch's mean loss is
        averaged over the batches, so a small last batch weighs as much as a full one.

        Returns:
            By parameter name, float32 in the parameter's shape; zeros for frozen parameters.

        Raises:
            ImportanceError: A non-finite loss or importance.
            ModelError: Weights that are not finite.
            DataError: No samples, or no labels where the objective needs them.
        """
        return _by_name(self.model, self._importance(self._read(dataloader)))

    def modify_weight(
        self,
        original_importance: Mapping[str, Tensor],
        forget_importance: Mapping[str, Tensor],
        PERCENTILE: float | None = None,  # noqa: N803 - the public code's name
    ) -> None:
        """θ ← θ · min((λ · Ω_r / Ω_f)^exponent, lower_bound) wherever Ω_f > α · Ω_r, in place (eq. 1 of paper A).

        Args:
            original_importance: Ω_r as returned by `calc_importance`: a tensor for every parameter, finite and not
                negative.
            forget_importance: Ω_f, likewise.
            PERCENTILE: p in [0, 100], required if `adaptive`: α is that percentile of the finite Ω_f / Ω_r over all
                parameters, by linear interpolation.

        Raises:
            ImportanceError: Importances of another model, negative or not finite; the weights are unchanged.
            SearchError: PERCENTILE missing or out of range; the weights are unchanged.
            ModelError: Weights that are not float32 or not finite; they are unchanged.
        """
        _check_model(self.model, self.device)
        parameters = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        retain = _checked(original_importance, parameters, "original")
        forget = _checked(forget_importance, parameters, "forget")
        dampening, exponent, cap = (self._numbers[key] for key in ("dampening_constant", "exponent", "lower_bound"))
        alpha = self._alpha(forget, retain, PERCENTILE)
        for parameter, f, r in zip(parameters.values(), forget, retain, strict=True):
            weights = parameter.reshape(-1)  # a copy where the parameter is not contiguous
            if exponent == cap == 1:
                ops.dampen(weights, f, r, alpha, dampening)
            else:
                _dampen_by(weights, f, r, alpha, dampening, exponent, cap)
            if not parameter.is_contiguous():
                parameter.copy_(weights.view_as(parameter))

    def _alpha(self, forget: list[Tensor], retain: list[Tensor], percentile: float | None) -> float:
        if not self.adaptive:
            if percentile is not None:
                _warn("PERCENTILE is of no effect without adaptive=True: α is selection_weighting")
            return self._numbers["selection_weighting"]
        if percentile is None:
            raise SearchError("adaptive=True takes α from a percentile; give PERCENTILE, in [0, 100]")
        if not isinstance(percentile, Real) or not 0 <= percentile <= 100:
            raise SearchError(f"PERCENTILE must be in [0, 100], not {percentile!r}")
        alpha = float(ops.select(torch.cat(forget), torch.cat(retain), [float(percentile)]))
        if math.isnan(alpha):
            _warn("no weight has a finite ratio of importances: there is nothing to select by")
        return alpha

    def _read(self, loader: Iterable[object]) -> _Read:
        place = self.label_at or (SECOND if self.adaptive else THIRD)
        return _Read(loader, None if self.label_free else place, sure=self.label_at is not None)

    def _importance(self, loader: Iterable[object]) -> Importance:
        return importance(self.model, loader, self.objective, group_size="batch")


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
        model: Changed in place.
        forget_train_dl: The forget set; its importances are computed first.
        dampening_constant: λ, at least 0.
        selection_weighting: α, at least 0.
        full_train_dl: The training data, with the forget set (SSD's own code) or without it (Potion's).
        device: See `ParameterPerturber`.
        label_at: See `ParameterPerturber`.

    Returns:
        The model.

    Raises:
        PotionError: As `ParameterPerturber` and its methods do; the model is then unchanged.
    """
    parameters = {"dampening_constant": dampening_constant, "selection_weighting": selection_weighting}
    perturber = ParameterPerturber(model, None, device, parameters, label_at=label_at)
    forget = perturber.calc_importance(forget_train_dl)
    read = perturber._read(full_train_dl)
    retain = _by_name(model, perturber._importance(read))
    if read.looks_like_flags():
        raise DataError(
            "the third of a batch is the same number throughout full_train_dl, the second is not: it may be Potion's "
            "flag rather than the label; say which is the label with label_at=1 or label_at=2"
        )
    perturber.modify_weight(retain, forget)
    return model


def assd_tuning(
    model: nn.Module,
    forget_train_dl: Iterable[object],
    dampening_constant: object,
    selection_weighting: object,
    full_train_dl: Iterable[object],
    device: torch.device | str | int,
    frac_dl: float | None = None,
    filtered_loader: Iterable[object] | None = None,
    *,
    label_at: int | None = None,
) -> nn.Module:
    """SSD with λ = 1 and α the percentile p = 100 − ln(1 + 100 · s) of Ω_f / Ω_r (eq. 7).

    PTN (algorithm 1) calls this with the original weights for s = share / 25, then s ← 1.1 · s, until the accuracy on
    S_f has fallen to ρ of the original. Its steps share one pair of importances, which the public code pickles in the
    current directory; here they stay in memory while both loaders live, and serve every call with the same loaders
    (the same objects, which support weak references, as a DataLoader does), weights, buffers and objective. A loader
    whose data have changed needs a new object. `potion_fast.unlearn(..., "ssd", mode="reference")` is the whole loop.

    Args:
        model: Changed in place.
        forget_train_dl: S_f.
        dampening_constant: Ignored, as in the public code.
        selection_weighting: Ignored, as in the public code.
        full_train_dl: S_tr without S_f, as Potion's bench gives it; its importances are computed first.
        device: See `ParameterPerturber`.
        frac_dl: s of one step of PTN, or the share of S_f; by default |S_f| / |S_tr|, ASSD's single step.
        filtered_loader: If given: S_tr without S_f; full_train_dl is then all of S_tr, read at most to be counted.
        label_at: See `ParameterPerturber`.

    Returns:
        The model.

    Raises:
        PotionError: As `ParameterPerturber` and its methods do; SearchError for `frac_dl` out of range. The model is
            then unchanged.
    """
    perturber = ParameterPerturber(model, None, device, {}, adaptive=True, label_at=label_at)
    return _tuned(perturber, forget_train_dl, full_train_dl, frac_dl, filtered_loader)


def alfssd_tuning(
    model: nn.Module,
    forget_train_dl: Iterable[object],
    dampening_constant: object,
    selection_weighting: object,
    full_train_dl: Iterable[object],
    device: torch.device | str | int,
    frac_dl: float | None = None,
    filtered_loader: Iterable[object] | None = None,
    x_D: bool = False,  # noqa: N803 - the public code's name
) -> nn.Module:
    """`assd_tuning` with label-free importances: LF, or XLF if `x_D`."""
    perturber = ParameterPerturber(model, None, device, {}, adaptive=True, label_free=True, x_D=x_D)
    return _tuned(perturber, forget_train_dl, full_train_dl, frac_dl, filtered_loader)


def _tuned(
    perturber: ParameterPerturber,
    forget_loader: Iterable[object],
    full_loader: Iterable[object],
    s: float | None,
    filtered_loader: Iterable[object] | None,
) -> nn.Module:
    if s is not None and not (isinstance(s, Real) and 0 < s < math.inf and percentile_of(float(s)) >= 0):
        raise SearchError(f"frac_dl is s of p = 100 − ln(1 + 100 · s): above 0, with p in [0, 100], not {s!r}")
    retain, forget = _both(perturber, full_loader if filtered_loader is None else filtered_loader, forget_loader)
    if s is None:
        everything = retain.samples + forget.samples if filtered_loader is None else count_samples(full_loader)
        s = forget.samples / everything
    model = perturber.model
    perturber.modify_weight(_by_name(model, retain), _by_name(model, forget), percentile_of(float(s)))
    return model


# --- Importances shared by the steps of a search ----------------------------------------------------------------------


class _Cached(NamedTuple):
    """Importances of two loaders, and the identity of what they were computed on."""

    forget_loader: weakref.ref[Any]
    identity: tuple[object, ...]
    retain: Importance
    forget: Importance


_cache: weakref.WeakKeyDictionary[Any, _Cached] = weakref.WeakKeyDictionary()  # by the retain loader; lives as long


def _both(
    perturber: ParameterPerturber, retain_loader: Iterable[object], forget_loader: Iterable[object]
) -> tuple[Importance, Importance]:
    """Importances of both, retain first as PTN does; those of the call before if nothing has changed."""
    identity = (_checksum(perturber.model), perturber.objective, perturber.label_at, str(perturber.device))
    try:
        cached, reference = _cache.get(retain_loader), weakref.ref(forget_loader)
    except TypeError:  # a list, say, takes no weak reference
        cached = reference = None
    if cached is not None and cached.forget_loader() is forget_loader and cached.identity == identity:
        return cached.retain, cached.forget
    retain = perturber._importance(perturber._read(retain_loader))
    forget = perturber._importance(perturber._read(forget_loader))
    if reference is not None:
        _cache[retain_loader] = _Cached(reference, identity, retain, forget)
    return retain, forget


def _checksum(model: nn.Module) -> int:
    """CRC-32 of the names and bytes of everything that importances depend on: all parameters and buffers."""
    code = 0
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        code = crc32(f"{name} {tensor.requires_grad}", tensor, start=code)
    return code


# --- Batches ----------------------------------------------------------------------------------------------------------


class _Read:
    """A loader of (input, label) batches made from tuples of either form; of (input,) where no label is needed.

    Args:
        place: Position of the label in a batch of three or more if both could be labels; None for no label.
        sure: The label is at `place` in every such batch, whatever the batch holds.
    """

    def __init__(self, loader: Iterable[object], place: int | None, sure: bool) -> None:
        self.loader, self.place, self.sure = loader, place, sure
        self._guessed = False
        self._seconds: set[int] = set()  # of the batches whose third was taken though both could be labels: up to two
        self._thirds: set[int] = set()

    def __iter__(self) -> Iterator[object]:
        for batch in self.loader:
            if not isinstance(batch, tuple | list) or not batch:
                yield batch
            elif self.place is None:
                yield (batch[0],)
            elif self.sure and self.place >= len(batch):
                raise DataError(f"label_at={self.place} and the loader gives batches of {len(batch)}")
            elif len(batch) < 3:
                yield batch
            else:
                yield batch[0], batch[self.place if self.sure else self._label_place(batch)]

    def looks_like_flags(self) -> bool:
        """Whether the thirds used as labels were all the same number while the seconds were not."""
        return self._guessed and len(self._thirds) == 1 and len(self._seconds) > 1

    def _label_place(self, batch: tuple[Any, ...] | list[Any]) -> int:
        """Position of the label, by what the batch holds."""
        second, third = (_may_be_labels(batch[place]) for place in (SECOND, THIRD))
        if second != third:
            return SECOND if second else THIRD
        assert self.place is not None
        if second and self.place == THIRD:
            self._guessed = True
            _remember(self._seconds, batch[SECOND])
            _remember(self._thirds, batch[THIRD])
        return self.place


def _may_be_labels(value: object) -> bool:
    """Classes [B], or their probabilities [B, C]."""
    if not isinstance(value, Tensor) or value.dtype == torch.bool:
        return False
    return value.ndim == (2 if value.is_floating_point() else 1)


def _remember(seen: set[int], values: Tensor) -> None:
    """Keep up to two different values: enough to know that there are several."""
    if len(seen) < 2 and values.numel() and not values.is_floating_point():
        seen.update((int(values.min()), int(values.max())))


# --- Importances by name, and the numbers of `parameters` -------------------------------------------------------------


def _by_name(model: nn.Module, importances: Importance) -> dict[str, Tensor]:
    """The means in the parameters' shapes, and zeros for frozen parameters."""
    parts = dict(importances.parts())
    return {
        name: importances.mean[parts[name]].view_as(parameter)
        if name in parts
        else torch.zeros_like(parameter, dtype=torch.float32)
        for name, parameter in model.named_parameters()
    }


def _checked(given: Mapping[str, Tensor], parameters: Mapping[str, Tensor], which: str) -> list[Tensor]:
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


def _numbers(parameters: Mapping[str, Any], adaptive: bool) -> dict[str, float]:
    """The four numbers that are used, checked; λ = 1 if `adaptive`."""
    if not isinstance(parameters, Mapping):
        raise ImportanceError(f"parameters is a {type(parameters).__name__}; it must be a dict of {', '.join(USED)}")
    if unknown := [str(key) for key in parameters if key not in (*USED, *UNUSED)]:
        _warn(f"unknown parameters are ignored: {', '.join(unknown)}")
    numbers: dict[str, float] = {"lower_bound": 1, "exponent": 1}
    if adaptive:
        numbers["dampening_constant"] = 1
    for key in USED[:2] if adaptive else USED:
        value = parameters.get(key, numbers.get(key))
        if value is None:
            raise ImportanceError(f"parameters has no {key!r}; give it, or set adaptive=True")
        if not isinstance(value, Real) or not math.isfinite(value) or (key != "exponent" and value < 0):
            least = "" if key == "exponent" else ", at least 0"
            raise ImportanceError(f"parameters[{key!r}] must be a finite number{least}, not {value!r}")
        numbers[key] = float(value)
    return numbers


def _check_model(model: nn.Module, device: torch.device | str | int) -> None:
    """Raise ModelError unless all weights are float32, finite and on that device, ImportanceError if all are frozen."""
    ModelParameters(model).check()
    try:
        asked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"{device!r} is no device: {error}") from error
    for name, parameter in model.named_parameters():
        there = parameter.device
        if there.type != asked.type or asked.index not in (None, there.index):
            raise ModelError(f"parameter {name!r} is on {there} and the device given is {asked}; move the model to it")
        if parameter.dtype != torch.float32:
            raise ModelError(f"parameter {name!r} is {parameter.dtype}; only float32 weights can be dampened")


def _warn(text: str) -> None:
    warnings.warn(text, PotionWarning, stacklevel=4)  # the caller of a method, not the method
