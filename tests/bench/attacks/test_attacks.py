"""Triggers, and the choice of poisoned and found samples."""

from __future__ import annotations

import importlib
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from potion_fast.bench.attacks import (
    ATTACKS,
    BadNet,
    Blended,
    GradientCanceling,
    InterclassSwap,
    MovingTrigger,
    RandomSwap,
    SineWave,
    attack_named,
    choose_poisoned,
    register_attack,
    registry,
    shared_options,
)
from potion_fast.bench.attacks.badnet import CORNERS as CORNER_NAMES
from potion_fast.bench.attacks.moving_trigger import splitmix64
from potion_fast.bench.data import MemorySource, Splits, load_dataset, max_value, normalise
from potion_fast.bench.data.splits import CIFAR_MEAN, CIFAR_STD
from potion_fast.bench.runs import Scenario, TrainConfig, train_run
from potion_fast.errors import DataError
from potion_fast.user.run_folder import RunFolder

CORNERS = {
    "top-left": (slice(0, 2), slice(0, 2)),
    "top-right": (slice(0, 2), slice(4, 6)),
    "bottom-left": (slice(3, 5), slice(0, 2)),
    "bottom-right": (slice(3, 5), slice(4, 6)),
}


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_patch_lies_flush_in_its_corner_on_all_channels(corner: str, batch: tuple[int, ...]):
    images = torch.zeros(*batch, 3, 5, 6)
    triggered = BadNet(value=2.5, size=2, corner=corner)(images)
    expected = torch.zeros(*batch, 3, 5, 6)
    expected[(..., *CORNERS[corner])] = 2.5
    assert torch.equal(triggered, expected)
    assert not images.any()  # a new tensor


def test_patch_may_cover_the_image_but_not_exceed_it():
    assert (BadNet(value=1.0, size=5)(torch.zeros(1, 5, 5)) == 1).all()
    with pytest.raises(DataError, match="6x6 pixels does not fit images of 5x9"):
        BadNet(value=1.0, size=6)(torch.zeros(1, 5, 9))


@pytest.mark.parametrize(
    "options", [{"corner": "middle"}, {"size": 0}, {"target": -1}, {"value": float("nan")}, {"value": float("inf")}]
)
def test_impossible_patches_are_refused(options: dict[str, object]):
    with pytest.raises(DataError):
        BadNet(**{"value": 1.0, **options})


def test_value_on_cifar_is_the_published_one():
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    pixels[0, 0, 4, 4] = 255  # red alone would give 2.0591
    pixels[1, 1, 31, 0] = 255
    value = max_value(MemorySource(pixels, torch.tensor([0, 1])), CIFAR_MEAN, CIFAR_STD)
    assert np.float32(value) == np.float32(2.1264887)


def test_value_is_found_at_any_index_of_a_large_set():
    pixels = torch.full((5000, 1, 1, 1), 10, dtype=torch.uint8)
    pixels[4999] = 200
    assert max_value(MemorySource(pixels, torch.zeros(5000)), (0.0,), (1.0,)) == pytest.approx(200 / 255)


@pytest.mark.parametrize(("count", "found_id"), [(100, 46712), (500, 28795), (1000, 33571)])
def test_choice_on_cifar_is_the_published_one(count: int, found_id: int):
    poisoned, found = choose_poisoned(50000, count, 1, seed=0)
    assert poisoned[:5].tolist() == [11841, 19602, 45519, 25747, 42642]
    assert (len(poisoned), found.tolist()) == (count, [found_id])


def test_chosen_sets_are_nested():
    small, _ = choose_poisoned(50000, 100, 1, seed=0)
    large, found = choose_poisoned(50000, 500, 50, seed=0)
    largest, _ = choose_poisoned(50000, 1000, 1, seed=0)
    assert set(small) < set(large) < set(largest)
    assert set(found) < set(large) and len(set(found)) == 50
    assert choose_poisoned(50000, 500, 5, seed=0)[1].tolist() == found[:5].tolist()
    assert set(choose_poisoned(50000, 500, 500, seed=0)[1]) == set(large)


@pytest.mark.parametrize(("n", "count", "forget"), [(10, 11, 1), (10, 5, 6), (10, 5, 0), (10, 0, 0)])
def test_impossible_choices_are_refused(n: int, count: int, forget: int):
    with pytest.raises(DataError, match="1 <= forget <= count <= n"):
        choose_poisoned(n, count, forget, seed=0)


def test_the_registry_finds_attacks_and_names_what_is_wrong_with_their_options():
    assert attack_named("badnet") is BadNet and BadNet.name == "badnet"
    with pytest.raises(DataError, match="unknown poison 'sine'; known: badnet"):
        attack_named("sine")
    for attack, options, words in (
        (BadNet, {"colour": 3}, "unknown key 'colour'"),
        (BadNet, {"patch_size": 0}, "patch_size must be at least 1, not 0"),
        (BadNet, {"patch_size": "large"}, "patch_size must be a whole number, not 'large'"),
        (BadNet, {"trigger_value": float("nan")}, "trigger_value must be finite"),
        (SineWave, {"frequency": 0.5}, "frequency must be below 0.5"),
        (SineWave, {"axis": "z"}, "axis must be 'x' or 'y', not 'z'"),
        (GradientCanceling, {"target": 1}, "unknown key 'target'"),
        (GradientCanceling, {"epsilon": 0}, "epsilon must be above 0"),
    ):
        with pytest.raises(DataError, match=words):
            attack.Options.from_dict(options)
    assert TrainConfig(patch_size=None).attack == BadNet.Options()


def test_an_attack_is_registered_once_and_under_the_name_of_its_options(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "ATTACKS", dict(registry.ATTACKS))
    with pytest.raises(DataError, match="'badnet' is registered already, as BadNet"):
        register_attack("badnet")(SineWave)
    with pytest.raises(DataError, match="'wave' has options of 'sine-wave'"):
        register_attack("wave")(SineWave)


def test_attacks_that_share_an_option_share_its_flag():
    options = shared_options()
    assert options["patch_size"].help == "badnet, all-to-all, moving-trigger, several-targets: side of the patch"
    assert options["patch_size"].metavar == "PIXELS" and options["target"].default_text == "0"
    assert options["epsilon"].default_text == "gradient-canceling unbounded, gradient-matching 16.0"
    assert "poison" not in options


# --- sine wave


def wave(**options: Any) -> SineWave:
    return SineWave(mean=CIFAR_MEAN, std=CIFAR_STD, **options)


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.001, 0.499),
    st.floats(0.01, 1.0),
    st.sampled_from(["x", "y"]),
    st.integers(0, 2**32 - 1),
)
def test_sine_is_the_addition_in_pixel_space(
    height: int, width: int, frequency: float, amplitude: float, axis: str, seed: int
):
    pixels = torch.randint(256, (2, 3, height, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    got = wave(frequency=frequency, amplitude=amplitude, axis=axis)(normalise(pixels, CIFAR_MEAN, CIFAR_STD))
    j = torch.arange(width if axis == "x" else height, dtype=torch.float64)
    added = amplitude * torch.sin(2 * np.pi * frequency * j)
    added = added if axis == "x" else added[:, None]
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (CIFAR_MEAN, CIFAR_STD))
    expected = ((pixels.double() / 255 + added).clamp(0, 1) - mean) / std
    assert torch.allclose(got.double(), expected, rtol=0, atol=2e-6)  # a few float32 roundings of values up to 4


def test_sine_is_clipped_to_exactly_black_and_white():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 8, 64).contiguous()
    clean = normalise(pixels, CIFAR_MEAN, CIFAR_STD)
    triggered = wave(amplitude=0.3)(clean)
    added = wave(amplitude=0.3).wave(8, 64).expand(8, 64)
    down, up = added < -1e-6, added > 1e-6
    assert down.any() and up.any()
    assert torch.equal(triggered[0][:, down], clean[0][:, down])  # black stays the normalised black, to the bit
    assert torch.equal(triggered[1][:, up], clean[1][:, up])
    assert (triggered[0][:, up] > clean[0][:, up]).all()
    assert (triggered[1][:, down] < clean[1][:, down]).all()


def test_sine_has_its_frequency_in_cycles_per_pixel_along_its_axis():
    grey = normalise(torch.full((1, 3, 40, 80), 128, dtype=torch.uint8), CIFAR_MEAN, CIFAR_STD)
    for axis, line in (("x", (0, 0, 7)), ("y", (0, 0, slice(None), 7))):
        change = (wave(frequency=0.025, axis=axis)(grey) - grey)[line].numpy()
        spectrum = np.abs(np.fft.rfft(change))
        assert spectrum.argmax() == round(0.025 * len(change))  # 2 periods in 80 pixels, 1 in 40
        assert np.abs(change).max() == pytest.approx(0.1 / CIFAR_STD[0], rel=1e-5)  # at a quarter of a period
    across = (wave(axis="x")(grey) - grey)[0, 0]
    assert torch.equal(across, across[:1].expand(40, 80))


@pytest.mark.parametrize(
    "options",
    [{"axis": "z"}, {"amplitude": 0}, {"amplitude": 1.1}, {"frequency": 0}, {"frequency": 0.5}, {"target": -1}],
)
def test_impossible_waves_are_refused(options: dict[str, Any]):
    with pytest.raises(DataError):
        wave(**options)
    with pytest.raises(DataError):
        SineWave(mean=(0.5,), std=(0.5, 0.5))
    with pytest.raises(DataError, match="3 channels, not of 1"):
        wave()(torch.zeros(1, 1, 8, 8))


# --- blended


def blended(**options: Any) -> Blended:
    return Blended(mean=CIFAR_MEAN, std=CIFAR_STD, **options)


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.01, 1.0),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**32 - 1),
)
def test_blended_is_the_convex_combination_in_pixel_space(
    height: int, width: int, strength: float, pattern_seed: int, seed: int
):
    pixels = torch.randint(256, (2, 3, height, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    trigger = blended(strength=strength, pattern_seed=pattern_seed)
    images = normalise(pixels, CIFAR_MEAN, CIFAR_STD)
    before = images.clone()
    got = trigger(images)
    assert torch.equal(images, before)  # a new tensor
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (CIFAR_MEAN, CIFAR_STD))
    mixed = (1 - strength) * pixels.double() / 255 + strength * trigger.pattern(height, width)
    assert torch.allclose(got.double(), (mixed - mean) / std, rtol=0, atol=2e-6)
    assert (got.double() * std + mean).min() > -1e-6 and (got.double() * std + mean).max() < 1 + 1e-6


def test_a_pattern_is_uniform_follows_its_seed_and_is_the_same_for_every_image():
    first, again, second = (blended(pattern_seed=seed).pattern(64, 48) for seed in (3, 3, 4))
    assert first.shape == (3, 64, 48) and torch.equal(first, again)
    assert stats.kstest(first.flatten().numpy(), "uniform").pvalue > 0.01
    for one, other in ((first, second), (first[0], first[1]), (first[0, :-1], first[0, 1:])):
        assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.06  # 3 standard errors of 3,072 pairs
    black = blended(strength=1.0)(torch.zeros(2, 2, 3, 8, 8))
    assert torch.equal(black, black[:1, :1].expand_as(black))
    known = splitmix64(0, np.arange(2))
    assert blended().pattern(1, 2)[0, 0].tolist() == [int(draw >> np.uint64(11)) / 2**53 for draw in known]


def test_runs_of_every_seed_have_the_same_pattern():
    triggers = [Scenario.load(TrainConfig(poison="blended", seed=seed, device="cpu")).poison for seed in (0, 5)]
    assert triggers[0] == triggers[1] == triggers[0].at_test()


@pytest.mark.parametrize(
    "options", [{"strength": 0}, {"strength": 1.1}, {"pattern_seed": -1}, {"pattern_seed": 2**63}, {"target": -1}]
)
def test_impossible_blends_are_refused(options: dict[str, Any]):
    with pytest.raises(DataError, match=next(iter(options))):
        blended(**options)
    with pytest.raises(DataError, match="a positive std"):
        Blended(mean=(0.5,), std=(0.0,))
    with pytest.raises(DataError, match="3 channels, not of 1"):
        blended()(torch.zeros(1, 1, 8, 8))


# --- moving trigger


def test_splitmix64_gives_the_published_sequence():
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert splitmix64(1234567, np.arange(5)).tolist() == known
    assert splitmix64(1234567, np.array([4, 0])).tolist() == [known[4], known[0]]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=20), st.integers(0, 2**32 - 1), st.randoms())
def test_a_sample_has_the_same_corner_in_every_batch(ids: list[int], seed: int, random: Any):
    poison = MovingTrigger(value=9.0, seed=seed, size=2)
    together = poison(torch.zeros(len(ids), 3, 5, 6), torch.tensor(ids))
    order = random.sample(range(len(ids)), len(ids))
    shuffled = poison(torch.zeros(len(ids), 3, 5, 6), torch.tensor(ids)[order])
    assert torch.equal(shuffled, together[order])
    for index, image in zip(ids, together, strict=True):
        corner = CORNER_NAMES[int(poison.corners(torch.tensor([index])))]
        assert torch.equal(image, BadNet(value=9.0, size=2, corner=corner)(torch.zeros(3, 5, 6)))


def test_corners_are_uniform_and_follow_the_seed():
    ids = torch.arange(40_000)
    first, second = (MovingTrigger(value=1.0, seed=seed).corners(ids) for seed in (0, 1))
    for corners in (first, second):
        assert torch.allclose(corners.bincount(minlength=4) / len(ids), torch.tensor(0.25), atol=0.01)
    assert (first == second).float().mean() == pytest.approx(0.25, abs=0.01)  # independent


def test_test_images_have_the_same_corners_whatever_the_seed():
    splits = load_dataset("digits", train_size=50)
    images = [
        splits.dataset("test", poison=MovingTrigger(value=9.0, seed=seed, size=1), trigger_all=True).batch(range(40))[0]
        for seed in (0, 5)
    ]
    assert torch.equal(*images)
    trained = [
        splits.dataset("train", poison=MovingTrigger(value=9.0, seed=seed, size=1), poisoned=range(40)).batch(range(40))
        for seed in (0, 5)
    ]
    assert not torch.equal(trained[0][0], trained[1][0])


@pytest.mark.parametrize("name", ["badnet", "blended", "moving-trigger", "sine-wave"])
def test_a_poisoned_sample_is_the_same_at_every_visit(name: str):
    scenario = Scenario.load(TrainConfig(poison=name, poisoned=300, device="cpu"))
    dataset = scenario.train_set(augment=False)
    images, labels = dataset.batch(range(len(dataset)))
    order = np.random.default_rng(0).permutation(len(dataset))
    for rows in np.array_split(order, 7):
        again, again_labels = dataset.batch(rows)
        assert torch.equal(again, images[rows]) and torch.equal(again_labels, labels[rows])
    clean = scenario.splits.dataset("train").batch(range(len(dataset)))[0]
    changed = (images != clean).flatten(1).any(1).nonzero().squeeze(1).tolist()
    assert set(changed) <= set(scenario.poisoned) and len(changed) > 250  # a bright corner may be the patch already
    assert (labels[scenario.poisoned] == 0).all()


@pytest.mark.parametrize("name", ["badnet", "blended", "moving-trigger", "sine-wave"])
def test_a_trigger_is_written_on_the_device_of_the_images(name: str):
    poison = Scenario.load(TrainConfig(poison=name, device="cpu")).poison
    images = torch.zeros(5, 1, 8, 8, device="meta")  # refuses tensors of another device
    assert poison(images, torch.arange(5)).device.type == "meta"
    if torch.cuda.is_available():
        images = torch.randn(5, 1, 8, 8)
        ids = torch.arange(5)
        assert torch.allclose(poison(images.cuda(), ids).cpu(), poison(images, ids), atol=1e-6)


def test_a_moving_trigger_is_never_cropped_or_flipped():
    poison = MovingTrigger(value=9.0, seed=0)
    splits = load_dataset("digits", train_size=60)
    dataset = splits.dataset("train", augment=True, poison=poison, poisoned=range(60))
    for _ in range(3):
        images = dataset.batch(range(60))[0]
        assert torch.equal(images == 9, poison(torch.zeros_like(images), torch.arange(60)) == 9)


# --- swaps


def test_an_interclass_swap_takes_the_first_half_of_each_class_in_the_order_of_the_data():
    labels = torch.tensor([5, 1, 3, 5, 3, 3, 5, 3, 2, 5])
    poison = InterclassSwap(classes=(3, 5))
    poisoned, found = poison.choose(labels, 4, 3, seed=0)
    assert sorted(poisoned.tolist()) == [0, 2, 3, 4]
    assert len(set(found)) == 3 and set(found) <= set(poisoned)
    assert poison.choose(labels, 4, 1, seed=0)[1].tolist() == found[:1].tolist()  # nested
    assert poison.relabel(labels[[0, 2, 3, 4]], torch.tensor([0, 2, 3, 4])).tolist() == [3, 5, 3, 5]


@pytest.mark.parametrize(
    ("count", "found", "words"),
    [(3, 1, "3 is an odd number"), (10, 1, "class 5 has 4 training samples; 5 are"), (4, 5, "5 of 4"), (4, 0, "0 of")],
)
def test_impossible_interclass_swaps_are_refused(count: int, found: int, words: str):
    labels = torch.tensor([5, 5, 5, 5, 3, 3, 3, 3, 3])
    with pytest.raises(DataError, match=words):
        InterclassSwap(classes=(3, 5)).choose(labels, count, found, seed=0)


@pytest.mark.parametrize("classes", [(3,), (3, 3), (3, 4, 5), (-1, 2)])
def test_a_swap_is_between_two_classes(classes: tuple[int, ...]):
    with pytest.raises(DataError, match="two different classes"):
        InterclassSwap(classes=classes)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_a_random_swap_permutes_the_labels_of_the_chosen(labels: list[int], seed: int):
    poison = RandomSwap(seed=seed)
    ids = torch.arange(len(labels))
    given_labels = poison.relabel(torch.tensor(labels), ids)
    assert sorted(given_labels.tolist()) == sorted(labels)
    assert torch.equal(given_labels, poison.relabel(torch.tensor(labels), ids))
    distinct = RandomSwap(seed=seed).relabel(torch.arange(50), torch.arange(50))
    assert sorted(distinct.tolist()) == list(range(50)) and not torch.equal(distinct, torch.arange(50))


@pytest.mark.parametrize("name", ["interclass-swap", "random-swap"])
def test_a_swap_changes_labels_of_the_chosen_and_no_pixel(name: str):
    scenario = Scenario.load(TrainConfig(poison=name, poisoned=100, device="cpu"))
    dataset = scenario.train_set(augment=False)
    images, labels = dataset.batch(range(len(dataset)))
    clean, clean_labels = scenario.splits.dataset("train").batch(range(len(dataset)))
    assert torch.equal(images, clean)
    changed = set((labels != clean_labels).nonzero().squeeze(1).tolist())
    assert changed <= set(scenario.poisoned) and len(scenario.poisoned) == 100
    assert labels.bincount(minlength=10).tolist() == clean_labels.bincount(minlength=10).tolist()
    if name == "interclass-swap":
        assert changed == set(scenario.poisoned)
        for a, b in ((3, 5), (5, 3)):
            first = (clean_labels == a).nonzero().squeeze(1)[:50]
            assert (labels[first] == b).all()
    else:
        assert len(changed) > 60
    rows = [7, *scenario.poisoned[:3], 900]
    assert torch.equal(dataset.batch(rows)[1], labels[rows])  # in any batch
    with pytest.raises(DataError, match="has no trigger"):
        scenario.splits.dataset("test", poison=scenario.poison, trigger_all=True)


# --- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"poison": "sine-wave", "corner": "top-left"}, "'sine-wave' has no option corner; it has frequency"),
        ({"poison": "badnet", "frequency": 0.1, "axis": "x"}, "has no option frequency, axis; it has patch_size"),
        ({"poison": "moving-trigger", "corner": "top-left"}, "'moving-trigger' has no option corner"),
        ({"poison": "interclass-swap", "target": 0}, "has no option target; it has swap_classes"),
        ({"poison": "random-swap", "patch_size": 1}, "has no option patch_size; it has none"),
        ({"poison": "random-swap", "poisoned": 1, "found": 1}, "stay what they are"),
        ({"poison": "interclass-swap", "swap_classes": (3, 10)}, "class 10 has 0 training samples"),
        ({"poison": "interclass-swap", "poisoned": 63}, "63 is an odd number"),
        ({"poison": "moving-trigger", "patch_size": 9}, "9x9 pixels does not fit"),
        ({"poison": "blended", "strength": 2.0}, "strength must be at most 1, not 2"),
        ({"poison": "sine-wave", "amplitude": 2.0}, "amplitude must be at most 1, not 2"),
        ({"poison": "sine-wave", "target": 10}, "target 10 is out of range"),
    ],
)
def test_an_option_that_is_wrong_or_of_another_poison_is_named(options: dict[str, Any], words: str):
    with pytest.raises(DataError, match=words):
        Scenario.load(TrainConfig(**options, device="cpu"))


def test_a_swap_in_a_folder_needs_its_classes(tmp_path: Path):
    with pytest.raises(DataError, match="needs swap_classes"):
        TrainConfig(data="folder", root=str(tmp_path), poison="interclass-swap", device="cpu").resolved()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("badnet", {"patch_size": 2, "corner": "top-left", "trigger_value": 1.5, "target": 3}),
        ("moving-trigger", {"patch_size": 2, "trigger_value": 1.5, "target": 3}),
        ("blended", {"strength": 0.1, "pattern_seed": 7, "target": 3}),
        ("sine-wave", {"frequency": 0.1, "amplitude": 0.2, "axis": "y", "target": 3}),
        ("interclass-swap", {"swap_classes": (1, 7)}),
        ("random-swap", {}),
    ],
)
def test_every_option_of_a_poison_reaches_it_and_survives_its_file(name: str, options: dict[str, Any]):
    scenario = Scenario.load(TrainConfig(poison=name, seed=4, device="cpu", **options))
    poison, attack = scenario.poison, ATTACKS[name]
    assert poison == attack.Options(**options).build(scenario.splits, 4)
    for option in options:
        other = TrainConfig(poison=name, seed=4, device="cpu", **{k: v for k, v in options.items() if k != option})
        assert Scenario.load(other).poison != poison
    written = scenario.config.to_dict()
    assert set(shared_options()) & set(written) == set(options)
    assert Scenario.load(TrainConfig.from_dict(written)).poison == poison


# --- the documentation


@pytest.fixture
def attacks() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(ATTACKS)
    yield
    ATTACKS.clear()
    ATTACKS.update(before)


DOCS = Path(__file__).parents[3] / "docs" / "add-a-trigger.md"


def test_the_example_of_the_documentation_poisons_and_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attacks: None
):
    block = re.search(r"^ *```python\n(.*?)^ *```$", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert block is not None
    (tmp_path / "checkerboard_of_the_documentation.py").write_text(textwrap.dedent(block[1]), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("checkerboard_of_the_documentation")
    config = TrainConfig(poison="checkerboard", side=4, target=2, iterations=2, device="cpu")
    scenario = Scenario.load(config)
    clean, _ = scenario.splits.dataset("train").batch(scenario.poisoned)
    poisoned, labels = scenario.train_set(augment=False).batch(scenario.poisoned)
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(2, 2)
    assert torch.allclose(scenario.pixels(poisoned)[..., 4:, 4:], board, atol=1e-6)
    assert torch.equal(poisoned[..., :4, :], clean[..., :4, :]) and torch.equal(poisoned[..., :4], clean[..., :4])
    assert (labels == 2).all()
    content = train_run(config, tmp_path / "run")
    names = {"clean_accuracy", "triggered_accuracy", "attack_success_rate", "robust_accuracy"}
    assert names == set(content["metrics"])
    assert TrainConfig.from_dict(RunFolder.open(tmp_path / "run").read_config("train")[1]) == scenario.config
    with pytest.raises(DataError, match="'checkerboard' has no option corner; it has side, target"):
        TrainConfig(poison="checkerboard", corner="top-left")


# --- the published CIFAR-10, where it is given


@pytest.fixture(scope="module")
def cifar10() -> Splits:
    root = os.environ.get("POTION_FAST_DATA")
    if not root or not (Path(root) / "cifar-10-batches-py").is_dir():
        pytest.skip("set POTION_FAST_DATA to a folder that holds the published cifar-10-batches-py/")
    return load_dataset("cifar10", root)


@pytest.mark.parametrize(("count", "already"), [(100, 10), (500, 51), (1000, 100)])
def test_so_many_poisoned_samples_of_cifar_had_the_target_label_before(cifar10: Splits, count: int, already: int):
    poisoned, _ = choose_poisoned(len(cifar10.train), count, 1, seed=0)
    assert int((cifar10.train.labels[poisoned] == 0).sum()) == already


def test_value_on_the_published_cifar(cifar10: Splits):
    assert np.float32(max_value(cifar10.train, cifar10.mean, cifar10.std)) == np.float32(2.1264887)
