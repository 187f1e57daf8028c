"""PTN: the search for the edit at which the trigger dies, before the model suffers (paper A, algorithm 1)."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .edits import EditPlan
from .errors import PotionWarning, SearchError
from .importances import Importance
from .metrics import accuracy, predict
from .modes import GroupSize, mode_named
from .percentiles import schedule, thresholds
from .progress import bar

BLOCK = 64  # thresholds computed at a time

THRESHOLD_PASSED = "threshold passed"
SATURATED = "saturated"
OUT_OF_STEPS = "out of steps"
NOT_LEARNT = "trigger not learnt"


class Candidates(Protocol):
    """What a search needs of an edit plan."""

    alphas: Tensor

    def apply(self, k: int) -> None: ...
    def dampened(self, k: int) -> int: ...


@dataclass(frozen=True)
class Trial:
    """One candidate, applied and evaluated: α, accuracy on S_f in [0, 1], weights dampened, wall-clock seconds."""

    alpha: float
    accuracy: float
    dampened: int
    seconds: float


@dataclass(frozen=True)
class Step:
    """One line of the trace of a PTN search.

    step        counted from 1
    s           s_iter of algorithm 1
    percentile  p = 100 − ln(1 + 100 · s) of eq. 7
    alpha       α, that percentile of Ω_f / Ω_r
    accuracy    share of S_f still given its (poison) label, in [0, 1]
    dampened    weights that differ from the original model's
    seconds     wall-clock time of the edit and its evaluation
    """

    step: int
    s: float
    percentile: float
    alpha: float
    accuracy: float
    dampened: int
    seconds: float


@dataclass
class Result:
    """What unlearning gives back.

    model             the healed model
    trace             every step, in order
    alpha             α of the step that was kept; None where the model was left alone
    reason            "threshold passed", "saturated" (α ≤ 1: further steps change nothing), "out of steps" or
                      "trigger not learnt" (the model gave no sample of S_f its label to begin with)
    initial_accuracy  accuracy on S_f before, acc₀, in [0, 1]
    rho, mode, group_size, objective   what it was run with
    warnings          what deserves a second look, as sentences
    forget, retain    the importances, for another search on the same model
    seconds           wall-clock time by phase: "forget", "retain" (where computed here) and "search"
    """

    model: nn.Module
    trace: list[Step]
    alpha: float | None
    reason: str
    initial_accuracy: float
    rho: float
    mode: str
    group_size: GroupSize
    objective: str
    warnings: list[str]
    forget: Importance
    retain: Importance
    seconds: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Everything but the model, the importances and the trace, as plain values for JSON."""
        last = asdict(self.trace[-1]) if self.alpha is not None else None
        names = ("reason", "alpha", "initial_accuracy", "rho", "mode", "group_size", "objective", "warnings", "seconds")
        return {**{name: getattr(self, name) for name in names}, "steps": len(self.trace), "kept_step": last}


def sequential(plan: Candidates, evaluate: Callable[[], float]) -> Iterator[Trial]:
    """Apply the candidates in turn and evaluate each one. Knows neither parameters nor data."""
    for k, alpha in enumerate(plan.alphas.tolist()):
        start = time.perf_counter()
        plan.apply(k)
        score = evaluate()
        yield Trial(alpha, score, plan.dampened(k), time.perf_counter() - start)


def check_options(rho: float, b_start: float | None, s_step: float, max_steps: int) -> None:
    """Raise SearchError for a value out of range, before any work is done."""
    if not 0 <= rho <= 1:
        raise SearchError(f"ρ must be in [0, 1], not {rho}")
    if b_start is not None and not 0 < b_start < math.inf:
        raise SearchError(f"b_start must be above 0 and finite, not {b_start}")
    if not 1 < s_step < math.inf:
        raise SearchError(f"s_step must be above 1 and finite, not {s_step}")
    if max_steps < 1:
        raise SearchError(f"max_steps must be at least 1, not {max_steps}")


def ptn_search(
    model: nn.Module,
    forget: Importance,
    retain: Importance,
    forget_loader: Iterable[object],
    *,
    rho: float = 0.2,
    mode: str = "default",
    b_start: float | None = None,
    s_step: float = 1.1,
    max_steps: int = 500,
    strict: bool | None = None,
    retain_holds_forget: bool | None = None,
    evaluation_loader: Iterable[object] | None = None,
    inplace: bool = False,
    progress: bool = False,
) -> Result:
    """Dampen step by step more, until the accuracy on S_f has fallen to ρ of what it was (paper A, algorithm 1).

    model                any nn.Module with float32 weights; a copy is changed unless `inplace`
    forget, retain       importances of S_f and of the training data, of this model with these weights
    forget_loader        S_f, with the labels that it was trained with: batches (input, label, ...)
    rho                  ρ in [0, 1]
    mode                 "default", "reference" or "paper": defaults for what is left None (see `potion_fast.modes`)
    b_start              the search starts at s = b_start · |S_f| / |S_tr|
    s_step               s ← s · s_step after every step, above 1
    max_steps            at most so many; the public code's cap is 500
    strict               stop below ρ · acc₀ and not at it
    retain_holds_forget  whether `retain` was taken over all of S_tr (|S_tr| = its samples) or over S_tr without S_f
    evaluation_loader    S_f for the accuracy, where it should differ from forget_loader (no augmentation, say)
    inplace              change the caller's model; it is restored to the bit should anything fail
    progress             show a progress bar

    The search ends at α ≤ 1 in every mode: from there on no step changes the model. Where it ends without passing
    the threshold, the model of the last step is given back with a warning, as the public code does.

    Raises SearchError (a value out of range), ImportanceError, ModelError, DataError (empty loader).
    """
    defaults = mode_named(mode)
    strict = defaults.strict if strict is None else strict
    b_start = defaults.b_start if b_start is None else b_start
    retain_holds_forget = defaults.retain_holds_forget if retain_holds_forget is None else retain_holds_forget
    check_options(rho, b_start, s_step, max_steps)
    share = forget.samples / (retain.samples + (0 if retain_holds_forget else forget.samples))
    steps = islice(schedule(share, b_start, s_step), max_steps)
    forget.check_model(model)
    if not inplace:
        model = copy.deepcopy(model)

    start = time.perf_counter()
    evaluate = _Evaluation(model, forget_loader if evaluation_loader is None else evaluation_loader)
    initial = evaluate()
    threshold = rho * initial
    trace: list[Step] = []
    reason = OUT_OF_STEPS
    if initial == 0 and not defaults.unlearnt_step:
        reason = NOT_LEARNT
    plan: EditPlan | None = None
    try:
        with bar(total=max_steps, what="search", unit="step", shown=progress) as steps_done:
            while reason == OUT_OF_STEPS and (block := list(islice(steps, BLOCK))):
                if plan is not None:
                    plan.reset()
                plan = EditPlan(model, forget, retain, thresholds(forget, retain, [p for _, p in block]))
                for (s, p), trial in zip(block, sequential(plan, evaluate), strict=False):
                    trace.append(Step(len(trace) + 1, s, p, trial.alpha, trial.accuracy, trial.dampened, trial.seconds))
                    steps_done.update()
                    steps_done.set_postfix_str(f"accuracy on S_f {trial.accuracy:.1%}", refresh=False)
                    if trial.accuracy < threshold or (trial.accuracy == threshold and not strict):
                        reason = THRESHOLD_PASSED
                        break
                    if not trial.alpha > 1:  # NaN too: no ratio was finite
                        reason = SATURATED
                        break
        notes = _notes(reason, rho, initial, trace, evaluate.finite)
        for note in notes:
            warnings.warn(note, PotionWarning, stacklevel=2)  # may raise, where a caller makes warnings errors
    except BaseException:
        if plan is not None:
            plan.reset()
        raise
    return Result(
        model=model,
        trace=trace,
        alpha=trace[-1].alpha if trace else None,
        reason=reason,
        initial_accuracy=initial,
        rho=rho,
        mode=mode,
        group_size=forget.group_size,
        objective=forget.objective,
        warnings=notes,
        forget=forget,
        retain=retain,
        seconds={"search": time.perf_counter() - start},
    )


def _notes(reason: str, rho: float, initial: float, trace: list[Step], finite: bool) -> list[str]:
    """What deserves a second look after a search, as sentences."""
    notes = []
    if initial == 0:
        notes.append("the model gives no sample of the forget set its label: the trigger was not learnt on them")
    if reason in (SATURATED, OUT_OF_STEPS):
        notes.append(f"the search ended {reason} before the accuracy on S_f fell to {rho:g} of {initial:.4g}")
    if trace and math.isnan(trace[-1].alpha):
        notes.append("no weight has a finite ratio of importances: there is nothing to select by")
    if not finite:
        notes.append("the model collapsed: its outputs on the forget set are not finite")
    return notes


class _Evaluation:
    """Accuracy of the model as it stands on S_f; notes whether its outputs were finite."""

    def __init__(self, model: nn.Module, loader: Iterable[object]) -> None:
        self.model, self.loader = model, loader
        self.finite = True

    def __call__(self) -> float:
        logits, labels = predict(self.model, self.loader)
        self.finite = bool(torch.isfinite(logits).all())
        return accuracy(logits, labels)
