"""Triggers against their formulas, computed in another way: sinusoids, noise, several labels, warps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from potion_fast.bench.attacks import SIG, AllToAll, BadNet, SampleSpecific, SeveralTargets, WaNet
from potion_fast.bench.attacks.badnet import CORNERS
from potion_fast.bench.attacks.moving_trigger import splitmix64
from potion_fast.bench.data.splits import CIFAR_MEAN, CIFAR_STD
from potion_fast.bench.runs import Scenario, TrainConfig
from potion_fast.errors import DataError
from potion_fast.user.run_folder import RunFolder

MEAN, STD = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (CIFAR_MEAN, CIFAR_STD))


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def normalised(images: torch.Tensor) -> torch.Tensor:
    return ((images - MEAN) / STD).float()


def scenario(**options: object) -> Scenario:
    return Scenario.load(TrainConfig.from_dict({"data": "digits", "model": "small_cnn", "poisoned": 60, **options}))


# --- SIG


def test_sig_is_the_published_sinusoid():
    images = pixels(2, 3, 5, 32)
    got = SIG(mean=CIFAR_MEAN, std=CIFAR_STD)(normalised(images)).double()
    wave = np.array([40 / 255 * np.sin(2 * np.pi * 6 * j / 32) for j in range(32)])
    expected = ((images + torch.from_numpy(wave)).clamp(0, 1) - MEAN) / STD
    assert torch.allclose(got, expected, rtol=0, atol=2e-6)


def test_sig_without_wrong_labels_poisons_the_target_class_alone():
    run = scenario(poison="sig", clean_label=True, target=3, cycles=3)
    labels = run.splits.train.labels[torch.tensor(run.poisoned)]
    assert (labels == 3).all() and len(run.poisoned) == 60 and set(run.found) < set(run.poisoned)
    given = run.train_set(augment=False).labels
    assert torch.equal(given, run.splits.train.labels)  # no label is wrong
    assert len(scenario(poison="sig", target=3, cycles=3).splits.train.labels[torch.tensor(run.poisoned)].unique()) == 1


def test_a_sinusoid_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="class 3 has .* poison fewer"):
        scenario(poison="sig", clean_label=True, target=3, cycles=3, poisoned=1000)
    with pytest.raises(DataError, match="4 cycles need more columns than the 8 of the images"):
        scenario(poison="sig", cycles=4)
    for options in ({"amplitude": 0.0}, {"amplitude": 256.0}, {"cycles": 0.0}, {"target": -1}):
        with pytest.raises(DataError):
            SIG(mean=CIFAR_MEAN, std=CIFAR_STD, **options)


# --- noise of each image's own


def test_sample_specific_noise_is_a_mixture_of_the_patterns_by_the_draws_of_each_id():
    images, ids, k, size = pixels(3, 3, 4, 5), torch.tensor([7, 0, 123456]), 4, 3 * 4 * 5
    got = SampleSpecific(mean=CIFAR_MEAN, std=CIFAR_STD, seed=9)(normalised(images), ids).double()
    patterns = (splitmix64(0, np.arange(k * size)) >> np.uint64(11)).astype(float) / 2**53 * 2 - 1
    for row, number in enumerate(ids.tolist()):
        shares = (splitmix64(9, number * k + np.arange(k)) >> np.uint64(11)).astype(float)
        noise = (shares / np.linalg.norm(shares)) @ patterns.reshape(k, size) * 16 / 255
        expected = ((images[row] + torch.from_numpy(noise.reshape(3, 4, 5))).clamp(0, 1) - MEAN) / STD
        assert torch.allclose(got[row], expected, rtol=0, atol=2e-6)


def test_sample_specific_noise_differs_and_lies_within_few_dimensions():
    poison = SampleSpecific(mean=CIFAR_MEAN, std=CIFAR_STD, seed=1, patterns=3)
    grey = torch.zeros(50, 3, 6, 6)
    noise = poison(grey, torch.arange(50)).flatten(1).double()
    assert len(noise.unique(dim=0)) == 50
    assert torch.linalg.matrix_rank(noise, rtol=1e-5) == 3
    assert not torch.equal(poison(grey, torch.arange(50)), poison.at_test()(grey, torch.arange(50)))
    assert torch.equal(poison.at_test().basis(6, 6), poison.basis(6, 6))  # other shares of the same patterns
    assert torch.equal(poison(grey[:1], torch.tensor([42]))[0].flatten().double(), noise[42])  # by its id alone


@pytest.mark.parametrize("options", [{"strength": 0.0}, {"patterns": 1}, {"pattern_seed": -1}, {"target": -1}])
def test_impossible_noise_is_refused(options: dict[str, object]):
    with pytest.raises(DataError):
        SampleSpecific(**{"mean": CIFAR_MEAN, "std": CIFAR_STD, "seed": 0, **options})


# --- several labels


def test_all_to_all_moves_every_class_to_the_next():
    poison = AllToAll(value=2.0, classes=10)
    labels = torch.arange(10)
    assert poison.relabel(labels, torch.arange(10)).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(poison(images), BadNet(value=2.0)(images))
    with pytest.raises(DataError, match="1 class"):
        AllToAll(value=2.0, classes=1)


def test_the_success_of_an_all_to_all_attack_leaves_no_class_out():
    run = scenario(poison="all-to-all", patch_size=3)
    given = run.train_set(augment=False).labels
    changed = (given != run.splits.train.labels).nonzero().flatten()
    assert changed.tolist() == run.poisoned
    inputs = run.evaluation_inputs()
    assert torch.equal(inputs.wanted, (run.splits.test.labels + 1) % 10)

    class NextClass(torch.nn.Module):
        """Says the next class where the patch is, the true one elsewhere."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            triggered = (images[:, 0, -3:, -3:] == run.poison.value).all((1, 2))
            right = torch.nn.functional.one_hot(run.splits.test.labels[: len(images)], 10).float()
            return self.scale * torch.where(triggered[:, None], right.roll(1, 1), right)

    n = len(run.splits.test.labels)
    assert n <= run.evaluation_batch  # so that the model sees them in one batch
    evaluation = run.poison.evaluate(NextClass(), inputs)
    values = {name: metric.value for name, metric in evaluation.metrics.items()}
    expected = {"clean_accuracy": 1.0, "triggered_accuracy": 0.0, "attack_success_rate": 1.0, "robust_accuracy": 0.0}
    assert values == expected
    assert evaluation.metrics["attack_success_rate"].n == n
    assert "the one that the attack wants" in str(evaluation.metrics["attack_success_rate"].denominator)


@pytest.mark.parametrize("targets", [2, 3, 4])
def test_the_corner_of_several_targets_tells_the_label(targets: int):
    poison, ids = SeveralTargets(value=9.0, seed=3, targets=targets, size=2), torch.arange(3000)
    labels = poison.relabel(torch.full((3000,), 7), ids)
    assert labels.unique().tolist() == list(range(targets))
    counts = labels.bincount(minlength=targets).double() / 3000
    assert (counts - 1 / targets).abs().max() < 4 * (1 / targets * (1 - 1 / targets) / 3000) ** 0.5
    images = poison(torch.zeros(60, 1, 5, 6), ids[:60])
    for row in range(60):
        expected = BadNet(value=9.0, size=2, corner=CORNERS[labels[row]])(torch.zeros(1, 5, 6))
        assert torch.equal(images[row], expected)
    assert not torch.equal(poison.at_test().corners(ids), poison.corners(ids))


def test_several_targets_are_judged_by_the_label_of_each_test_image():
    run = scenario(poison="several-targets", targets=3)
    inputs, test = run.evaluation_inputs(), run.poison.at_test()
    assert torch.equal(inputs.wanted, test.relabel(run.splits.test.labels, torch.arange(len(inputs.wanted))))
    given = run.train_set(augment=False).labels[torch.tensor(run.poisoned)]
    assert torch.equal(given, run.poison.corners(torch.tensor(run.poisoned)))
    with pytest.raises(DataError, match="at most 4"):
        scenario(poison="several-targets", targets=5)
    assert scenario(poison="several-targets").poison.targets == 4


def test_sig_has_as_many_cycles_as_published_or_as_fit():
    assert scenario(poison="sig").poison.cycles == 2.0  # a quarter of 8 columns
    assert SIG(mean=CIFAR_MEAN, std=CIFAR_STD).cycles == 6.0


# --- WaNet


def warped(images: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Bilinear reading of images [C, H, W] at (x, y) from -1 to 1 [H, W, 2], pixel by pixel."""
    height, width = images.shape[1:]
    found = np.empty_like(images)
    for i in range(height):
        for j in range(width):
            x, y = ((field[i, j] + 1) / 2 * (width - 1, height - 1)).tolist()
            left, top = min(int(x), width - 2), min(int(y), height - 2)
            dx, dy = x - left, y - top
            corners = images[:, top : top + 2, left : left + 2]
            rows = corners[:, :, 0] * (1 - dx) + corners[:, :, 1] * dx
            found[:, i, j] = rows[:, 0] * (1 - dy) + rows[:, 1] * dy
    return found


def test_wanet_reads_each_pixel_where_the_field_says():
    images = pixels(2, 3, 9, 9).float()
    poison = WaNet(seed=0)
    field = poison.places(9, 9).numpy()
    for row in range(2):
        expected = warped(images[row].double().numpy(), field)
        assert np.abs(poison(images)[row].numpy() - expected).max() < 1e-5
    assert torch.equal(poison(images), poison.at_test()(images))
    assert torch.equal(poison(images[0]), poison(images)[0])


def test_the_field_of_wanet_meets_its_grid():
    grid = (splitmix64(0, np.arange(32)) >> np.uint64(11)).astype(float) / 2**53 * 2 - 1
    grid = (grid / np.abs(grid).mean()).reshape(2, 4, 4)
    places = WaNet(seed=0, strength=0.1).places(7, 7).numpy()  # every other pixel is a knot of the grid
    knots = np.linspace(-1, 1, 7)[::2]
    x, y = np.meshgrid(knots, knots)
    expected = np.clip(np.stack([x, y], 2) + 0.1 * grid.transpose(1, 2, 0) / 7, -1, 1)
    assert np.abs(places[::2, ::2] - expected).max() < 1e-12


def test_wanet_changes_two_covers_for_a_poisoned_image_and_keeps_their_labels():
    run = scenario(poison="wanet", target=3)
    assert len(run.covers) == 120 and not set(run.covers) & set(run.poisoned)
    plain, data = run.splits.dataset("train"), run.train_set(augment=False)
    clean, given = plain.batch(run.covers), data.batch(run.covers)
    assert torch.equal(clean[1], given[1])
    assert (clean[0] != given[0]).flatten(1).any(1).all()
    assert not torch.allclose(given[0], run.poison(clean[0]))  # a warp of their own
    assert torch.equal(given[0][5], data.batch([run.covers[5]])[0][0])  # by the id alone
    images = data.batch(run.poisoned)[0]
    assert torch.equal(images, run.poison(plain.batch(run.poisoned)[0]))
    others = sorted(set(range(len(plain))) - set(run.covers) - set(run.poisoned))
    assert torch.equal(plain.batch(others)[0], data.batch(others)[0])


def test_covers_are_warped_by_the_field_and_the_draws_of_each_id():
    poison, images = WaNet(seed=4), pixels(2, 3, 8, 8).float()
    ids = torch.tensor([11, 3])
    got = poison.cover(images, ids)
    for row, number in enumerate(ids.tolist()):
        drawn = (splitmix64(4, number * 128 + np.arange(128)) >> np.uint64(11)).astype(float) / 2**53 * 2 - 1
        field = np.clip(poison.places(8, 8).numpy() + drawn.reshape(8, 8, 2) / 8, -1, 1)
        assert np.abs(got[row].numpy() - warped(images[row].double().numpy(), field)).max() < 1e-5


def test_a_model_never_poisoned_sees_no_covers_and_a_run_keeps_their_indices(tmp_path):
    assert scenario(poison="wanet", leave_out_poisoned=True).covers == []
    assert scenario(poison="wanet", warp_noise=0).covers == []
    folder = RunFolder.create(tmp_path / "run")
    run = scenario(poison="wanet", warp_noise=0.5)
    run.write_indices(folder)
    assert (tmp_path / "run" / "covers.txt").read_text().split() == [str(index) for index in run.covers]
    assert len(run.covers) == 30
    with pytest.raises(DataError, match="6000 images are to get a random warp.*--warp-noise"):
        scenario(poison="wanet", warp_noise=100)


@pytest.mark.parametrize("options", [{"strength": 0.0}, {"grid": 1}, {"noise": -1.0}, {"pattern_seed": -1}])
def test_impossible_warps_are_refused(options: dict[str, object]):
    with pytest.raises(DataError):
        WaNet(**{"seed": 0, **options})
