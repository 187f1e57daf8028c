"""Measurements of trained models, for figures 3 to 5, 7 and 12."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ....edits.plan import EditPlan
from ....errors import FileError
from ....importances import Importance, importance
from ....percentiles import percentile_of
from ....user.run_folder import RunFolder
from ....utils.predict import accuracy, predict
from ...attacks import ATTACKS
from ...configs import EvaluateConfig
from ...data import make_loader
from ...runs.inputs import load_trained, load_weights
from ...runs.scenario import EVALUATION_BATCH, Loader, Scenario
from ..papers import PERTURBATIONS
from .norm_toy import EXPONENTS

MOST = 1_000_000  # parameters whose importances are kept, evenly spaced over the model
SHARES = np.geomspace(1e-6, 0.3, 16)  # s of the candidates that figure 7 looks at
FOUND = 10  # one in so many of S_m counts as found


@dataclass(frozen=True)
class Contaminated:
    """Figure 7 at one candidate: accuracies with the labels that the training data have, in [0, 1].

    Attributes:
        dampened: number of weights.
        retain: of S_tr ∖ S_f, which still holds undiscovered poison: its two parts by their sizes.
        clean: of its clean part.
        poison: of S_m ∖ S_f.
        found: of S_f.
    """

    dampened: int
    retain: float
    clean: float
    poison: float
    found: float


@dataclass(frozen=True)
class MeasuredModel:
    """One trained model.

    Attributes:
        name: of its run.
        samples: clean training images that it was measured on.
        found: samples of S_m.
        norms: [samples] ‖f(x)‖₂.
        retain: w -> Ω_r [n]: importances of eq. 4 over those images; group size 1.
        forget: w -> Ω_f [n]: over the samples found.
        contaminated: figure 7's curve, by weights dampened.
        share: of S_m ∖ S_f in S_tr ∖ S_f.
    """

    name: str
    samples: int
    found: int
    norms: np.ndarray
    retain: dict[float, np.ndarray]
    forget: dict[float, np.ndarray]
    contaminated: list[Contaminated]
    share: float


def trained_runs(models: Path) -> dict[str, Path]:
    """Attack -> the folder of a poisoned model: with the most poisoned samples, the first by name; no perturbations."""
    found: dict[str, tuple[int, str, Path]] = {}
    for path in sorted(models.iterdir()) if models.is_dir() else []:
        try:
            config = RunFolder.open(path).read_config("train")[1]
        except FileError:
            continue  # something else, or a training that has not ended
        if config.get("leave_out_poisoned") or not (path / "model.safetensors").is_file():
            continue
        attack, key = str(config.get("poison")), (-int(config.get("poisoned") or 0), path.name, path)
        if attack in ATTACKS and ATTACKS[attack].kind in PERTURBATIONS:
            continue
        found[attack] = min(found.get(attack, key), key)
    return {attack: path for attack, (_, _, path) in found.items()}


def load(run: Path) -> tuple[Scenario, nn.Module]:
    """A training run's data and model.

    Raises:
        PotionError: one of them cannot be read.
    """
    config = EvaluateConfig(run=str(run)).resolved()
    scenario, _ = load_trained(RunFolder.open(run), config)
    return scenario, load_weights(RunFolder.open(run), scenario, config.device)[0]


def measure(run: Path, samples: int) -> MeasuredModel:
    """Two passes for importances, and one evaluation per candidate of figure 7.

    Raises:
        PotionError: the run cannot be read.
    """
    scenario, model = load(run)
    found = scenario.poisoned[::FOUND]
    clean = np.setdiff1d(scenario.trained_on, scenario.poisoned)
    measured_on = clean[np.linspace(0, len(clean) - 1, min(samples, len(clean))).astype(int)].tolist()
    retain = importance(model, _loader(scenario, measured_on), EXPONENTS, group_size=1)
    forget = importance(model, _loader(scenario, found), EXPONENTS, group_size=1)
    logits, _ = predict(model, _loader(scenario, measured_on))
    rest = sorted(set(scenario.poisoned) - set(found))
    xlf = EXPONENTS.index(1.0)
    return MeasuredModel(
        name=run.name,
        samples=len(measured_on),
        found=len(found),
        norms=logits.double().norm(dim=1).numpy(),
        retain={w: _kept(omega) for w, omega in zip(EXPONENTS, retain, strict=True)},
        forget={w: _kept(omega) for w, omega in zip(EXPONENTS, forget, strict=True)},
        contaminated=_contaminated(model, scenario, forget[xlf], retain[xlf], (measured_on, rest, found), len(clean)),
        share=len(rest) / (len(rest) + len(clean)),
    )


def _contaminated(
    model: nn.Module,
    scenario: Scenario,
    forget: Importance,
    retain: Importance,
    parts: tuple[list[int], list[int], list[int]],
    clean: int,
) -> list[Contaminated]:
    """Along candidates of growing s; parts are indices of clean samples, S_m ∖ S_f and S_f."""
    if not parts[1]:
        return []  # everything was found
    plan = EditPlan.at_percentiles(model, forget, retain, [percentile_of(s) for s in SHARES])
    weight = len(parts[1]) / (len(parts[1]) + clean)
    collected: list[Contaminated] = []
    for k in (None, *range(len(SHARES))):
        dampened = 0 if k is None else plan.dampened(k)
        if collected and dampened == collected[-1].dampened:
            continue  # the same weights
        if k is not None:
            plan.apply(k)
        known, poison, found = (accuracy(*predict(model, _loader(scenario, part))) for part in parts)
        collected.append(Contaminated(dampened, (1 - weight) * known + weight * poison, known, poison, found))
    plan.reset()
    return collected


def _loader(scenario: Scenario, indices: list[int]) -> Loader:
    """Training samples as stored, with the labels they were trained with."""
    return make_loader(
        scenario.train_set(augment=False), indices, batch_size=EVALUATION_BATCH, shuffle=False, seed=0, workers=0
    )


def _kept(omega: Importance) -> np.ndarray:
    mean = omega.mean32
    return mean[:: max(1, mean.numel() // MOST)].double().cpu().numpy()


@dataclass(frozen=True)
class Example:
    """An image before and after an attack, [C, H, W] pixels in [0, 1], and a text on its label."""

    attack: str
    clean: Tensor
    attacked: Tensor
    text: str


def examples(runs: dict[str, Path]) -> list[Example]:
    """One per attack: the first test image that is not of the target class, or the first swapped training image."""
    collected = []
    for attack, run in runs.items():
        scenario, _ = load_trained(RunFolder.open(run), EvaluateConfig(run=str(run)).resolved())
        labels, wanted = scenario.attacked_labels()
        changed = (labels != wanted).nonzero().flatten()
        place = int(changed[0]) if len(changed) else 0
        dataset, index = ("test", place) if scenario.poison.has_trigger else ("train", scenario.poisoned[place])
        clean = scenario.pixels(scenario.splits.dataset(dataset).batch([index])[0])[0]
        names = scenario.splits.classes
        text = f"{names[int(labels[place])]} → {names[int(wanted[place])]}"
        collected.append(Example(attack, clean, scenario.attacked_images([place])[0], text))
    return collected
