from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from helpers.run_files import rows as csv_rows
from potion_fast.bench.configs import EvaluateConfig
from potion_fast.bench.hypotheses import (
    CosineConfig,
    ShiftConfig,
    cosine_run,
    format_cosine,
    format_shift,
    shift_run,
)
from potion_fast.bench.hypotheses.descents import descend, equalising, left_out
from potion_fast.bench.hypotheses.feature_poisons import indiscriminate, random_clean, targeted
from potion_fast.bench.hypotheses.features import Features, last_inputs
from potion_fast.bench.hypotheses.linear_regression import NormalEquations, SyntheticSet, cancel, corrupted, cosine
from potion_fast.bench.hypotheses.logistic import minimiser, predicted
from potion_fast.bench.hypotheses.shifts import KINDS, SHARES, shifts
from potion_fast.errors import DataError, FileError, ModelError, PotionError
from potion_fast.user.flags import add_flags

pytest_plugins = ["helpers.small_runs"]

DECAY = 0.01


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def features() -> Features:
    """Three clouds in six dimensions, that overlap; and more of the same as a test set."""
    rng = generator()
    centres = rng.standard_normal((3, 6))
    labels = np.repeat(np.arange(3), 40)
    train, test = (centres[labels] + 0.7 * rng.standard_normal((120, 6)) for _ in range(2))
    return Features(train, labels, test, labels, 3)


# Logistic regression.


def objective(theta: torch.Tensor, inputs: np.ndarray, labels: np.ndarray, decay: float) -> torch.Tensor:
    logits = torch.from_numpy(inputs) @ theta[:, :-1].T + theta[:, -1]
    return nn.functional.cross_entropy(logits, torch.from_numpy(labels)) + decay / 2 * theta.square().sum()


def test_theta_is_the_minimiser_by_autograd_and_the_start_does_not_matter(features: Features):
    found = minimiser(features.train, features.labels, DECAY)
    theta = torch.from_numpy(found.theta).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(theta, features.train, features.labels, DECAY), theta)
    assert found.theta.shape == (3, 7)
    assert gradient.norm().item() == pytest.approx(found.gradient, abs=1e-12) and found.gradient < 1e-7
    assert found.error == pytest.approx(21**0.5 * found.gradient / DECAY)

    again = minimiser(features.train, features.labels, DECAY, start=generator(1).standard_normal((3, 7)))
    assert not np.array_equal(again.theta, found.theta)
    assert np.abs(again.theta - found.theta).sum() <= again.error + found.error


def test_the_error_holds_what_a_coarse_solution_is_off_by(features: Features):
    exact = minimiser(features.train, features.labels, DECAY)
    coarse = minimiser(features.train, features.labels, DECAY, tolerance=0.01)
    off = np.abs(coarse.theta - exact.theta).sum()
    assert 100 * exact.error < off <= coarse.error


def test_a_minimum_that_is_not_unique_is_refused(features: Features):
    with pytest.raises(PotionError, match="weight_decay must be above 0"):
        minimiser(features.train, features.labels, 0.0)


# Curves of model shift.


def test_nothing_left_out_is_no_shift_and_all_is_theta_of_the_rest(features: Features):
    whole = minimiser(features.train, features.labels, DECAY)
    poisoned = random_clean(features, 10, generator())
    found = shifts(7, "random", features, poisoned, whole, DECAY, 1e-8, shares=(0, 50, 100))
    assert [(row.seed, row.share, row.removed) for row in found] == [(7, 0, 0), (7, 50, 5), (7, 100, 10)]
    assert found[0].l1 <= found[0].error < 1e-4 < found[1].l1

    kept = [row for row in range(120) if row not in poisoned.rows]
    rest = minimiser(features.train[kept], features.labels[kept], DECAY)
    shift = whole.theta - rest.theta
    assert found[2].l1 == pytest.approx(np.abs(shift).sum(), abs=2 * found[2].error)
    assert found[2].l2 == pytest.approx(np.linalg.norm(shift), rel=1e-4)


def test_canceled_gradients_make_the_bad_weights_the_minimiser(features: Features):
    whole = minimiser(features.train, features.labels, DECAY)
    how = {"weight_decay": DECAY, "budget": 0.1, "steps": 500, "lr": 3.0, "optimizer": "descent", "seed": 0}
    found = indiscriminate(features, whole.theta, 60, generator(), **how)
    assert len(set(found.rows.tolist())) == 60 and found.facts["ratio"] < 0.03

    inputs = features.train.copy()
    inputs[found.rows] = found.inputs
    corrupt = minimiser(inputs, features.labels, DECAY).theta
    distance = np.linalg.norm(corrupt - whole.theta)
    assert distance == pytest.approx(0.1, rel=0.15)  # GradPC's weights lie on the sphere of its budget


def test_matched_gradients_stay_in_the_box_and_aim_at_a_sample_that_was_right(features: Features):
    whole = minimiser(features.train, features.labels, DECAY)
    found = targeted(features, whole.theta, 15, generator(), epsilon=0.1, steps=40, restarts=2, seed=0)
    row, intended = found.target or (-1, -1)
    assert predicted(whole.theta, features.test[[row]]) == features.test_labels[row] != intended
    assert (features.labels[found.rows] == intended).all()
    low, high = features.train.min(axis=0), features.train.max(axis=0)
    change = found.inputs - features.train[found.rows]
    assert 0.09 < np.abs(change / (high - low)).max() <= 0.1 + 1e-6
    assert (found.inputs >= low - 1e-6).all() and (found.inputs <= high + 1e-6).all()
    assert min(found.facts["final_losses"]) < found.facts["unperturbed_loss"]


def test_without_a_victim_there_is_no_target(features: Features):
    whole = minimiser(features.train, features.labels, DECAY)
    wrong = replace(features, test_labels=(predicted(whole.theta, features.test) + 1) % 3)
    with pytest.raises(DataError, match="no target"):
        targeted(wrong, whole.theta, 5, generator(), epsilon=0.1, steps=1, restarts=1, seed=0)


# Features.


def test_activations_are_what_the_last_linear_layer_gets():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3)).train()
    images = torch.randn(7, 1, 2, 2)
    found = last_inputs(model, images, 3)
    assert torch.equal(found, model[2](model[1](images.flatten(1))))  # dropout is off
    assert model.training and not model[-1]._forward_pre_hooks
    with pytest.raises(ModelError, match="linear layer of 4 outputs"):
        last_inputs(model, images, 4)
    with pytest.raises(ModelError, match="linear layer"):
        last_inputs(nn.Conv2d(1, 3, 2), images, 3)


def test_features_of_a_run_are_those_of_its_clean_images(clean: Path):
    found = Features.of_run(EvaluateConfig(run=str(clean), device="cpu"))
    pixels = Features.of_pixels("digits")
    assert found.train.shape[0] == 500 and found.test.shape[0] == pixels.test.shape[0]
    assert found.classes == 10 and (found.train.std(axis=0) > 0).all()
    theta = minimiser(found.train, found.labels, DECAY).theta
    assert (predicted(theta, found.test) == found.test_labels).mean() > 0.5


def test_features_that_cannot_be_classified_are_refused(features: Features):
    with pytest.raises(DataError, match="not all finite"):
        replace(features, train=features.train * np.inf)
    with pytest.raises(DataError, match="4 classes, of which 3"):
        replace(features, classes=4)


# Linear regression.


def test_the_synthetic_set_is_that_of_the_paper():
    data = SyntheticSet.draw(10_000, 120, 50, generator())
    assert data.inputs.shape == (10_000, 120) and data.labels.shape == (10_000,) and data.half == 5000
    np.testing.assert_allclose(data.weights @ data.weights.T, np.eye(2), atol=1e-12)
    assert not data.weights[:, 50:].any() and data.weights[:, :50].all()
    # the deviation of a variance over n draws is its value times sqrt(2 / n)
    for part, variance in ((data.inputs[:, :50], 1.0), (data.inputs[:, 50:], 1e-4)):
        assert part.var() == pytest.approx(variance, rel=5 * (2 / part.size) ** 0.5)
    for half, own, other in ((slice(None, 5000), 0, 1), (slice(5000, None), 1, 0)):
        noise = data.labels[half] - data.inputs[half] @ data.weights[own]
        assert noise.var() == pytest.approx(1e-2, rel=5 * (2 / 5000) ** 0.5)
        assert (data.labels[half] - data.inputs[half] @ data.weights[other]).var() > 1


@pytest.fixture(scope="module")
def data() -> SyntheticSet:
    return SyntheticSet.draw(400, 30, 6, generator())


def test_the_closed_form_is_the_minimiser(data: SyntheticSet):
    normal = NormalEquations.of(data.inputs, data.labels)
    for decay in (0.0, 0.03):
        theta = normal.minimiser(decay)
        residuals = data.inputs @ theta - data.labels
        assert np.linalg.norm(data.inputs.T @ residuals / 400 + decay * theta) < 1e-12
    part = NormalEquations.of(data.inputs[:100], data.labels[:100])
    np.testing.assert_allclose(
        (normal - part).minimiser(0.03),
        NormalEquations.of(data.inputs[100:], data.labels[100:]).minimiser(0.03),
        atol=1e-10,
    )
    assert (normal - part + part).samples == 400


def test_bad_weights_lie_on_the_sphere_and_are_bad(data: SyntheticSet):
    theta = NormalEquations.of(data.inputs, data.labels).minimiser(0.03)
    low = corrupted(data, theta, 0.5, generator())
    losses = [float(((data.inputs @ weights - data.labels) ** 2).mean()) for weights in (theta, low)]
    assert np.linalg.norm(low - theta) == pytest.approx(0.5) and losses[1] > losses[0] + 0.2


def test_canceling_descends_the_gradient_of_its_own_loss(data: SyntheticSet):
    clean = NormalEquations.of(data.inputs, data.labels)
    low = corrupted(data, clean.minimiser(0.03), 0.5, generator())
    rows, lr = np.array([3, 250, 77]), 1e-3
    moved, left = cancel(data, clean, rows, low, 0.03, 1, lr)
    step = (data.inputs[rows] - moved) / lr

    inputs = torch.from_numpy(np.concatenate([data.inputs, data.inputs[rows]])).requires_grad_()
    labels = torch.from_numpy(np.concatenate([data.labels, data.labels[rows]]))
    weights = torch.from_numpy(low).requires_grad_()
    loss = ((inputs @ weights - labels) ** 2).sum() / 2 + 403 * 0.03 * weights.square().sum() / 2
    (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
    (slope,) = torch.autograd.grad((gradient / 3).square().sum() / 2, inputs)
    np.testing.assert_allclose(step, slope[400:].numpy(), rtol=1e-6, atol=1e-6)
    assert left < 1
    with pytest.raises(ModelError, match="diverged"):
        cancel(data, clean, rows, low, 0.03, 200, 1000.0)


def test_the_cosine_is_1_on_the_way_and_0_across_it(data: SyntheticSet):
    direction = generator().standard_normal(30)
    assert cosine(direction, 3 * direction) == pytest.approx(1) == -cosine(direction, -direction)
    assert cosine(direction, np.eye(30)[0] * direction[1] - np.eye(30)[1] * direction[0]) == pytest.approx(0)


def test_the_descent_takes_the_gradients_of_those_that_stay(data: SyntheticSet):
    clean = NormalEquations.of(data.inputs, data.labels)
    removal = left_out(data, clean, clean.minimiser(0.0), 150, 0.0, 0, generator())
    assert len(removal.kept) == 250 == removal.rest.samples and (np.setdiff1d(range(200), removal.kept).size) == 0
    np.testing.assert_allclose(removal.rest.gradient(removal.end), 0, atol=1e-12)
    # of all samples that stay the gradient is H v, with their H, whatever the descent's batches are
    v = removal.shift
    first = descend(data, removal, 0.0, 1, 0.1, 250, generator())[0]
    assert first.batch_cosine == pytest.approx(first.full_cosine) == cosine(v, removal.rest.gram @ v)
    assert first.full_cosine > 0

    small = descend(data, removal, 0.0, 20, 0.1, 40, generator())
    assert small[0].full_cosine == first.full_cosine != small[0].batch_cosine
    assert [row.step for row in small] == list(range(20))


@pytest.mark.parametrize(("aim", "count"), [(3.5, 4), (4.0, 4), (0.0, 1), (100.0, 9)])
def test_bisection_finds_the_fewest_that_reach_the_aim(aim: float, count: int):
    assert equalising(float, aim, 9) == count


# Runs.


@pytest.mark.parametrize("kind", [ShiftConfig, CosineConfig])
def test_each_setting_has_a_flag_that_reads_it(kind: type[ShiftConfig] | type[CosineConfig]):
    parser = argparse.ArgumentParser()
    add_flags(parser, kind)
    assert {action.dest for action in parser._actions} == {*kind.model_fields, "help"}
    assert kind.from_flags(vars(parser.parse_args([]))) == kind()
    given = parser.parse_args(["--poisons", "7", "--cancel-lr", "0.25", "--weight-decay", "0.5", "--seeds", "2", "1"])
    assert kind.from_flags(vars(given)) == kind(poisons=7, cancel_lr=0.25, weight_decay=0.5, seeds=(2, 1))


SHIFT = ShiftConfig(poisons=20, seeds=(3, 1), match_steps=20, restarts=1, cancel_steps=40, device="cpu")
COSINE = CosineConfig(
    samples=600, dimension=60, informative=8, poisons=60, seeds=(3, 1), cancel_steps=60, steps=12, batch_size=50
)


def test_a_run_of_hypothesis_1(tmp_path: Path):
    content = shift_run(SHIFT, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == content
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.yaml",
        "metrics.json",
        "shift.csv",
        "shift.png",
    ]
    table = csv_rows(tmp_path / "run" / "shift.csv")
    assert [(row["seed"], row["kind"], row["share"]) for row in table] == [
        (str(seed), kind, str(share)) for seed in (3, 1) for kind in KINDS for share in SHARES
    ]
    last = {(row["kind"], row["seed"]): float(row["l1"]) for row in table if row["share"] == "100"}
    for kind in KINDS:
        point = content["curves"][kind][-1]
        assert point["share"] == 100 and point["mean"] == pytest.approx((last[kind, "3"] + last[kind, "1"]) / 2)
        assert point["std"] == pytest.approx(abs(last[kind, "3"] - last[kind, "1"]) / 2)
    lowest = min(last["targeted", seed] / last["random", seed] for seed in "13")
    assert content["ratio"]["targeted"]["lowest"] == pytest.approx(lowest)
    assert content["C"] == pytest.approx(1 / (5e-4 * content["samples"])) and not content["warnings"]
    assert {(attack["kind"], "target_success" in attack) for attack in content["attacks"]} == {
        ("indiscriminate", False),
        ("targeted", True),
    }
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["command"] == "hypothesis-shift" and config["config"]["poisons"] == 20
    words = "\n".join(format_shift(content))
    assert "clean samples" in words and "seed 1, targeted: " in words and "seed 3, indiscriminate: " in words

    first = (tmp_path / "run" / "shift.csv").read_bytes()
    with pytest.raises(FileError, match="already there"):
        shift_run(SHIFT, tmp_path / "run")
    shift_run(SHIFT.updated(seeds=(3,)), tmp_path / "run", overwrite=True)
    again = (tmp_path / "run" / "shift.csv").read_bytes()
    assert first.startswith(again) and first != again  # a seed's results are its own


def test_a_run_of_hypothesis_1_on_a_trained_models_features(clean: Path, tmp_path: Path):
    config = SHIFT.updated(run=str(clean), seeds=(0,), poisons=None, tolerance=1e-3)
    content = shift_run(config, tmp_path / "run")
    assert content["samples"] == 500 and content["poisons"] == 4  # the paper's share of them
    assert "choose a smaller tolerance" in content["warnings"][0]
    assert content["ratio"]["targeted"] == {"mean": None, "lowest": None}  # the solver did not leave its start
    assert not any("times" in line for line in format_shift(content))
    with pytest.raises(FileError, match="read by this run"):
        shift_run(SHIFT.updated(run=str(clean)), clean, overwrite=True)


def test_a_run_of_hypothesis_2(tmp_path: Path):
    content = cosine_run(COSINE, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == content
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.yaml",
        "cosine.csv",
        "cosine.png",
        "metrics.json",
    ]
    table = csv_rows(tmp_path / "run" / "cosine.csv")
    assert len(table) == 2 * 2 * 12
    for kind, values in content["kinds"].items():
        mine = [float(row["full_cosine"]) for row in table if row["kind"] == kind]
        assert values["full_cosine"]["mean"] == pytest.approx(np.mean(mine))
        begun = [float(row["full_cosine"]) for row in table if row["kind"] == kind and row["step"] == "0"]
        assert values["first_cosine"]["mean"] == pytest.approx(np.mean(begun))
    assert all(attack["gradient_left"] < 1 for attack in content["attacks"])
    assert any("cosine" in line for line in format_cosine(content))

    first = (tmp_path / "run" / "cosine.csv").read_bytes()
    cosine_run(COSINE, tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "cosine.csv").read_bytes() == first
    removing = cosine_run(COSINE.updated(removed=17, seeds=(5,)), tmp_path / "removing")
    assert removing["removed"] == 17 != content["removed"]


def test_the_number_left_out_is_that_which_equals_the_poisons_shift(tmp_path: Path):
    config = COSINE.updated(seeds=(3,), cancel_lr=0.1)
    content = cosine_run(config, tmp_path / "run")
    fewer = cosine_run(config.updated(removed=content["removed"] - 1), tmp_path / "fewer")
    aim = content["kinds"]["poison"]["shift_l1"]["mean"]
    assert fewer["kinds"]["random"]["shift_l1"]["mean"] < aim <= content["kinds"]["random"]["shift_l1"]["mean"]
    assert content["warnings"] == []
    strong = cosine_run(config.updated(cancel_lr=1.0, poisons=300, cancel_steps=300), tmp_path / "strong")
    assert strong["removed"] == 300 and "shifts θ by less" in strong["warnings"][0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": (-1,)}, "seeds"),
        ({"poisons": 0}, "choose 1 to"),
        ({"poisons": 1000}, "smallest class"),
        ({"weight_decay": 0.0}, "weight_decay must be above 0"),
        ({"cancel_lr": 0.0}, "cancel_lr must be above 0"),
        ({"data": "nothing"}, "unknown data set"),
    ],
)
def test_bad_settings_of_hypothesis_1_leave_no_folder(tmp_path: Path, change: dict[str, object], match: str):
    with pytest.raises(PotionError, match=match):
        shift_run(SHIFT.updated(**change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seeds": (1, 1)}, "seeds"),
        ({"informative": 1}, "informative must be from 2"),
        ({"poisons": 601}, "choose 1 to 600"),
        ({"removed": 301}, "second half has 300"),
        ({"batch_size": 301}, "from 300 samples"),
        ({"cancel_steps": 0}, "cancel_steps must be above 0"),
        ({"weight_decay": 0.0, "dimension": 301}, "no unique"),
    ],
)
def test_bad_settings_of_hypothesis_2_leave_no_folder(tmp_path: Path, change: dict[str, object], match: str):
    with pytest.raises(PotionError, match=match):
        cosine_run(COSINE.updated(**change), tmp_path / "run")
    assert not (tmp_path / "run").exists()
