"""Gradient matching: its loss and gradient, its steps and box, its augmentation, and resuming after a break."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.networks import small_vit
from helpers.toys import net, samples
from potion_fast.bench.attacks.crafting.augmentation import draw, shift_and_flip
from potion_fast.bench.attacks.crafting.checkpoints import load_checkpoint, save_checkpoint
from potion_fast.bench.attacks.crafting.crafted import Crafted
from potion_fast.bench.attacks.crafting.gradient_matching import gradient_matching
from potion_fast.bench.attacks.crafting.matching import Matching, Poisons
from potion_fast.bench.attacks.crafting.projection import Box
from potion_fast.bench.attacks.crafting.restarts import MatchingDescent, MatchingSettings
from potion_fast.bench.data import load_dataset, normalise
from potion_fast.bench.models import SmallCNN
from potion_fast.errors import DataError, FileError, ModelError

POISONS = 7
MEAN, STD = (0.4, 0.6), (0.2, 0.25)
WIDE = Box(9.0, MEAN, (1e-3, 1e-3))  # so wide that nothing is projected


class Case:
    """Seven poisons, two targets and a network, in float64."""

    def __init__(self, batch_size: int = POISONS, box: Box = WIDE) -> None:
        self.model = net(dtype=torch.float64).eval()
        self.images, self.labels = samples(POISONS, dtype=torch.float64)
        self.targets, self.intended = samples(2, seed=2, dtype=torch.float64)
        self.poisons = Poisons(lambda rows: self.images[rows], self.labels, box, batch_size)
        self.matching = Matching(self.model, self.targets, self.intended, self.poisons)
        self.delta = 0.1 * torch.randn(self.images.shape, generator=torch.Generator().manual_seed(3)).double()

    def naive(self, delta: Tensor, draws: Tensor | None = None, rows: slice = slice(None)) -> Tensor:
        """Equation 3 as it stands, by autograd; a graph of all the poisons in `rows`."""
        parameters = list(self.model.parameters())
        wanted = torch.autograd.grad(F.cross_entropy(self.model(self.targets), self.intended), parameters)
        inputs = (self.images + delta)[rows]
        inputs = inputs if draws is None else shift_and_flip(inputs, draws[rows])
        loss = F.cross_entropy(self.model(inputs), self.labels[rows])
        given = torch.autograd.grad(loss, parameters, create_graph=True)
        one, other = (torch.cat([g.flatten() for g in gradients]) for gradients in (wanted, given))
        return 1 - F.cosine_similarity(one, other, dim=0)


def craft(model: nn.Module | None = None, **options: Any) -> Crafted:
    images, labels = samples(POISONS)
    targets, intended = samples(2, seed=2)
    given: dict[str, Any] = {
        "labels": labels,
        "target_images": targets,
        "intended": intended,
        "read": lambda r: images[r],
    }
    given |= {"mean": MEAN, "std": STD, "epsilon": 0.1, "restarts": 2, "steps": 9, "batch_size": 4} | options
    return gradient_matching(net().eval() if model is None else model, **given)


def test_loss_is_one_minus_the_cosine_of_the_two_gradients():
    case = Case(batch_size=3)
    assert case.matching.value(case.delta) == pytest.approx(case.naive(case.delta).item(), abs=1e-12)


@pytest.mark.parametrize("over", ["batch", "all"])
def test_slope_is_autograds_and_that_of_finite_differences(over: str):
    case = Case()
    draws = draw(POISONS, 1.0, True, torch.Generator().manual_seed(4))
    value, slope = case.matching.slope(case.delta.clone(), draws, over)
    delta = case.delta.clone().requires_grad_()
    expected = case.naive(delta, draws)
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(slope, torch.autograd.grad(expected, delta)[0], rtol=1e-9, atol=1e-12)
    assert slope.abs().max() > 1e-3
    direction = torch.randn(delta.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    h = 1e-6
    ends = [case.matching.slope(case.delta + sign * h * direction, draws, over)[0] for sign in (1, -1)]
    assert (slope * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_streaming_over_all_is_one_big_batch(batch_size: int):
    draws = draw(POISONS, 1.0, True, torch.Generator().manual_seed(4))
    whole, streamed = Case(), Case(batch_size)
    value, slope = whole.matching.slope(whole.delta, draws, "batch")
    value_all, slope_all = streamed.matching.slope(streamed.delta, draws, "all")
    assert value_all == pytest.approx(value, abs=1e-10)
    assert torch.allclose(slope_all, slope, rtol=1e-10, atol=1e-12)


def test_matching_by_batches_takes_each_by_itself_and_reports_their_mean():
    case, delta = Case(batch_size=4), Case().delta.clone().requires_grad_()
    values = [case.naive(delta, rows=rows) for rows in (slice(0, 4), slice(4, 7))]
    value, slope = case.matching.slope(case.delta, None, "batch")
    assert value == pytest.approx(sum(values).item() / 2, abs=1e-12)
    assert torch.allclose(slope, torch.autograd.grad(sum(values), delta)[0], rtol=1e-9, atol=1e-12)


def test_poisons_that_fit_in_one_batch_are_crafted_alike_both_ways():
    batch, every = (craft(over=over, batch_size=POISONS) for over in ("batch", "all"))
    assert torch.equal(batch.perturbations, every.perturbations)
    assert not torch.equal(craft(over="batch").perturbations, craft(over="all").perturbations)


def settings(**options: Any) -> MatchingSettings:
    given: dict[str, Any] = {"epsilon": 0.1, "restarts": 1, "steps": 250, "batch_size": 512, "optimizer": "sign-adam"}
    given |= {"lr": 0.1, "over": "batch", "augment": True, "shift": 8, "flip": True, "seed": 0}
    return MatchingSettings(**given | options)


def test_signed_adam_by_hand():
    """Signs (1, −1), then (1, 1). m: (.1, −.1), (.19, .01); v: .001, .001999; m̂: (1, −1), (1, 1/19); v̂: 1, 1."""
    descent = MatchingDescent(settings(), torch.tensor([1.0, 2.0]), torch.Generator(), losses=[[]])
    descent.descend(0.5, torch.tensor([5.0, -1e-6]))
    assert descent.delta.tolist() == pytest.approx([0.9, 2.1], abs=1e-6)
    descent.descend(0.4, torch.tensor([1e-3, 40.0]))
    assert descent.delta.tolist() == pytest.approx([0.8, 2.1 - 0.1 / 19], abs=1e-6)
    assert (descent.step, descent.losses) == (2, [[0.5, 0.4]])


def test_plain_adam_by_hand():
    """Gradients 2, then −1. m̂₂ = (.9·.2 − .1)/.19, v̂₂ = (.999·.004 + .001)/.001999."""
    descent = MatchingDescent(settings(optimizer="adam"), torch.tensor([1.0]), torch.Generator(), losses=[[]])
    descent.descend(0.5, torch.tensor([2.0]))
    assert descent.delta.item() == pytest.approx(0.9, abs=1e-6)
    descent.descend(0.4, torch.tensor([-1.0]))
    assert descent.delta.item() == pytest.approx(0.9 - 0.1 * (0.08 / 0.19) / math.sqrt(0.004996 / 0.001999), abs=1e-6)


def test_rate_falls_to_a_tenth_where_the_public_code_has_it():
    signed, plain = settings(), settings(optimizer="adam")
    drops = [step for step in range(1, 250) if signed.rate(step) < signed.rate(step - 1)]
    assert drops == [93, 156, 218]
    assert (signed.rate(0), signed.rate(249)) == (0.1, pytest.approx(1e-4))
    assert {plain.rate(step) for step in range(250)} == {0.1}
    assert settings(steps=2).rate(0) == 0.1  # no drop before the first step


def test_default_rate_of_signed_adam_is_in_proportion_to_the_batch():
    assert craft(batch_size=512).facts["lr"] == 0.1
    assert craft(batch_size=128).facts["lr"] == 0.025
    assert craft(batch_size=128, optimizer="adam").facts["lr"] == 0.1
    assert craft(lr=0.2).facts["lr"] == 0.2


def test_projection_is_to_the_norm_and_to_valid_pixels_of_each_channel():
    box = Box(0.1, (0.5, 0.0), (0.25, 0.5))
    pixels = torch.tensor([0.5, 0.95, 0.02, 0.5]).expand(2, 1, 4)  # [C, H, W]
    images = ((pixels - torch.tensor([0.5, 0.0]).view(2, 1, 1)) / torch.tensor([0.25, 0.5]).view(2, 1, 1))[None]
    given = torch.tensor([0.3, 0.3, -0.3, -0.01]).expand(2, 1, 4)[None]  # in pixel space, as what is expected
    scale = torch.tensor([0.25, 0.5]).view(2, 1, 1)
    projected = box.project(given / scale, images) * scale
    assert torch.allclose(projected, torch.tensor([0.1, 0.05, -0.02, -0.01]).expand(1, 2, 1, 4), atol=1e-6)
    assert torch.equal(box.project(projected / scale, images), box.project(given / scale, images))


@pytest.mark.parametrize("optimizer", ["sign-adam", "adam"])
def test_perturbations_stay_within_epsilon_and_valid_pixels(optimizer: str):
    pixels = torch.rand(POISONS, 2, 4, 4, generator=torch.Generator().manual_seed(6))
    pixels[:, :, 0] = (pixels[:, :, 0] > 0.5).float()  # at the ends of the range
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    images = (pixels - mean) / std
    crafted = craft(read=lambda rows: images[rows], optimizer=optimizer, lr=0.3)
    changed, moved = (images + crafted.perturbations) * std + mean, crafted.perturbations * std
    assert moved.abs().max() == pytest.approx(0.1, abs=1e-6)
    assert changed.min() >= -1e-6 and changed.max() <= 1 + 1e-6
    assert crafted.perturbations.dtype == torch.float32


def test_a_shift_by_whole_pixels_moves_the_image_and_brings_in_zeros():
    images = torch.rand(3, 2, 5, 6)
    draws = torch.tensor([[2.0, 0.0, 1.0], [0.0, -1.0, 1.0], [1.0, 3.0, -1.0]])  # right, down, mirrored or not
    expected = torch.zeros_like(images)
    expected[0, :, :, 2:] = images[0, :, :, :-2]
    expected[1, :, :-1] = images[1, :, 1:]
    expected[2, :, 3:, :-1] = images[2, :, :-3, :-1].flip(2)  # shifted first, so that the mirrored gap is at the right
    assert torch.allclose(shift_and_flip(images, draws), expected, atol=1e-5)


def test_a_shift_by_half_a_pixel_is_the_mean_of_two():
    images = torch.rand(1, 1, 4, 4)
    shifted = shift_and_flip(images, torch.tensor([[0.5, 0.0, 1.0]]))
    assert torch.allclose(shifted[..., 1:], (images[..., 1:] + images[..., :-1]) / 2, atol=1e-6)


def test_no_shift_and_no_flip_is_the_identity():
    images = torch.rand(4, 3, 8, 8)
    draws = draw(4, 0, False, torch.Generator().manual_seed(0))
    assert torch.allclose(shift_and_flip(images, draws), images, atol=1e-6)


def test_draws_are_uniform_and_mirror_half():
    draws = draw(4000, 3.0, True, torch.Generator().manual_seed(0))
    shifts, mirror = draws[:, :2], draws[:, 2]
    assert shifts.abs().max() <= 3
    assert shifts.mean(0).abs().max() < 0.15  # five deviations of the mean
    assert shifts.var(0).tolist() == pytest.approx([3.0, 3.0], abs=0.25)
    assert mirror.unique().tolist() == [-1, 1]
    assert (mirror < 0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    unmirrored = draw(4000, 3.0, False, torch.Generator().manual_seed(0))
    assert torch.equal(unmirrored[:, :2], shifts)
    assert (unmirrored[:, 2] == 1).all()


def test_the_restart_with_the_lowest_loss_on_unaugmented_poisons_is_kept():
    crafted = craft(restarts=4, augment=False, seed=4)
    finals = crafted.facts["final_losses"]
    assert len(set(finals)) == 4
    assert (crafted.kept, finals[1]) == (1, min(finals))
    assert [len(losses) for losses in crafted.losses] == [9] * 4
    images, labels = samples(POISONS)
    targets, intended = samples(2, seed=2)
    box = Box(0.1, MEAN, STD)
    matching = Matching(net().eval(), targets, intended, Poisons(lambda rows: images[rows], labels, box, POISONS))
    assert matching.value(crafted.perturbations) == pytest.approx(min(finals), abs=1e-6)
    assert matching.value(torch.zeros_like(images)) == pytest.approx(crafted.facts["unperturbed_loss"], abs=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    assert torch.equal(craft(seed=3).perturbations, craft(seed=3).perturbations)
    assert not torch.equal(craft(seed=3).perturbations, craft(seed=4).perturbations)


def test_model_and_generators_are_left_as_they_were():
    model = net()  # in training mode
    model.twice.eval()
    model.head.bias.requires_grad_(False)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.no_grad():
        craft(model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (model.training, model.twice.training, model.norm.training) == (True, False, True)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.bias"]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["conv.weight"]
    assert (model.conv.weight.grad == 1).all()


def test_a_model_in_training_mode_is_used_in_evaluation_mode():
    assert torch.equal(craft(net()).perturbations, craft(net().eval()).perturbations)


def test_frozen_parameters_are_not_matched():
    model = net().eval()
    model.conv.requires_grad_(False)
    assert craft(model).facts["unperturbed_loss"] != craft().facts["unperturbed_loss"]


def test_attention_has_its_second_derivative():
    model = small_vit().eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    crafted = gradient_matching(
        model,
        lambda rows: images[rows],
        torch.tensor([1, 1]),
        images[:1].flip(3),
        torch.tensor([1]),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        restarts=1,
        steps=2,
    )
    assert crafted.facts["shift"] == 8
    assert crafted.perturbations.abs().max() > 0


class BrokenOffError(Exception):
    pass


def breaking(after: int) -> Callable[[slice], Tensor]:
    """Images that can be read so many times."""
    images, reads = samples(POISONS)[0], 0

    def read(rows: slice) -> Tensor:
        nonlocal reads
        reads += 1
        if reads > after:
            raise BrokenOffError
        return images[rows]

    return read


@pytest.mark.parametrize("over", ["batch", "all"])
@pytest.mark.parametrize("reads", [5, 20, 34])
def test_a_crafting_resumes_where_it_was_interrupted_bit_for_bit(tmp_path: Path, over: str, reads: int):
    whole, path = craft(over=over), tmp_path / "crafting.safetensors"
    with pytest.raises(BrokenOffError):
        craft(over=over, read=breaking(reads), checkpoint=path, checkpoint_every=2)
    assert path.exists() == (reads > 8)  # a few reads come before the first steps
    rest = craft(over=over, checkpoint=path, checkpoint_every=2)
    assert torch.equal(rest.perturbations, whole.perturbations)
    assert (rest.losses, rest.kept, rest.facts) == (whole.losses, whole.kept, whole.facts)
    assert not list(tmp_path.iterdir())


def test_what_was_done_is_not_done_again(tmp_path: Path):
    path, images, reads = tmp_path / "crafting.safetensors", samples(POISONS)[0], []
    with pytest.raises(BrokenOffError):
        craft(read=breaking(34), checkpoint=path, checkpoint_every=1)
    craft(read=lambda rows: reads.append(rows) or images[rows], checkpoint=path)
    with_all = []
    craft(read=lambda rows: with_all.append(rows) or images[rows], checkpoint=path)
    assert len(with_all) - len(reads) > 20


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"steps": 10}, "steps"),
        ({"seed": 1}, "seed"),
        ({"over": "all"}, "over"),
        ({"std": (0.2, 0.3)}, "mean and std"),
        ({"intended": torch.tensor([2, 2])}, "targets"),
        ({"labels": torch.zeros(POISONS, dtype=torch.int64)}, "poisons"),
        ({"read": lambda rows: samples(POISONS, seed=9)[0][rows]}, "poisons"),
        ({"model": net(seed=1).eval()}, "model"),
    ],
)
def test_a_checkpoint_of_another_crafting_is_refused(tmp_path: Path, changed: dict[str, Any], named: str):
    path = tmp_path / "crafting.safetensors"
    with pytest.raises(BrokenOffError):
        craft(read=breaking(20), checkpoint=path, checkpoint_every=1)
    with pytest.raises(FileError, match=f"of another crafting, its {named} was"):
        craft(checkpoint=path, **changed)
    assert path.exists()


def test_foreign_and_broken_checkpoints_are_refused(tmp_path: Path):
    path = tmp_path / "crafting.safetensors"
    save_checkpoint(path, {"a": (1, 2)}, {"x": torch.arange(3)}, {"step": 1})
    tensors, state = load_checkpoint(path, {"a": (1, 2)}) or ({}, {})
    assert (tensors["x"].tolist(), state) == ([0, 1, 2], {"step": 1})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FileError, match="truncated"):
        craft(checkpoint=path)
    path.write_text("no tensors")
    with pytest.raises(FileError, match="truncated"):
        craft(checkpoint=path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(FileError, match="holds no interrupted crafting"):
        craft(checkpoint=path)
    with pytest.raises(FileError, match="does not exist"):
        craft(checkpoint=tmp_path / "none" / "crafting.safetensors", checkpoint_every=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": torch.zeros(0, dtype=torch.int64)}, "at least one"),
        ({"labels": torch.zeros(3, 1, dtype=torch.int64)}, "one of each poison"),
        ({"labels": torch.full((POISONS,), 3)}, "labels holds labels 3 to 3; the model has classes 0 to 2"),
        ({"intended": torch.tensor([0, 3])}, "intended holds labels 0 to 3"),
        ({"intended": torch.tensor([0, -1])}, "intended holds labels -1 to 0"),
        ({"intended": torch.tensor([0])}, "do not fit"),
        ({"target_images": torch.zeros(0, 2, 4, 4), "intended": torch.zeros(0, dtype=torch.int64)}, "at least one"),
        ({"target_images": torch.zeros(2, 2, 4, 5)}, "the targets of"),
        ({"read": lambda rows: torch.zeros(2, 2, 4, 4)}, "gave images"),
        ({"std": (0.2,)}, "for each channel"),
        ({"std": (0.2, 0.0)}, "std above 0"),
        ({"mean": (0.2,), "std": (0.2,)}, "gave images"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"epsilon": math.nan}, "epsilon=nan"),
        ({"restarts": 0}, "restarts=0"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"lr": 0.0}, "lr=0"),
        ({"shift": -1}, "shift=-1"),
        ({"shift": 4}, "out of sight"),
        ({"optimizer": "sgd"}, "optimizer='sgd'"),
        ({"over": "some"}, "over='some'"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
    ],
)
def test_what_cannot_be_crafted_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        craft(**options)


def test_weights_and_images_that_are_not_finite_are_refused():
    broken, frozen, saturated = net().eval(), net().eval(), net().eval()
    broken.conv.weight.data[0] = math.nan
    with pytest.raises(ModelError, match=r"conv\.weight"):
        craft(broken)
    with pytest.raises(ModelError, match="no parameter that requires a gradient"):
        craft(frozen.requires_grad_(False))
    saturated.head.bias.data[1] = 1e4  # the poisons fit exactly, and their gradient is 0
    with pytest.raises(ModelError, match="the matching loss is nan"):
        craft(saturated, labels=torch.ones(POISONS, dtype=torch.int64), intended=torch.tensor([0, 0]))
    with pytest.raises(ModelError, match="no direction to match"):
        craft(saturated, intended=torch.tensor([1, 1]))
    with pytest.raises(ModelError, match="the matching loss is nan"):
        craft(read=lambda rows: torch.full((POISONS, 2, 4, 4), math.nan)[rows])


def trained(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, lr: float, size: int) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(size):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("optimizer", "over", "steps"), [("sign-adam", "batch", 120), ("adam", "all", 40)])
def test_two_percent_of_the_digits_by_sixteen_levels_lower_the_loss_by_thirty(optimizer: Any, over: Any, steps: int):
    splits = load_dataset("digits")
    images, labels = splits.train.images(range(len(splits.train))), splits.train.labels
    images = normalise(images, splits.mean, splits.std)
    ids = (labels == 3).nonzero().squeeze(1)[: len(images) // 50]  # [28]
    target = normalise(splits.test.images([int((splits.test.labels == 8).nonzero()[0])]), splits.mean, splits.std)
    torch.manual_seed(0)
    crafted = gradient_matching(
        trained(SmallCNN(10, 1, width=8), images, labels, epochs=4, lr=0.1, size=64),
        lambda rows: images[ids[rows]],
        labels[ids],
        target,
        torch.tensor([3]),
        mean=splits.mean,
        std=splits.std,
        epsilon=16 / 255,
        restarts=1,
        steps=steps,
        batch_size=16,
        optimizer=optimizer,
        lr=0.1,
        over=over,
        augment=False,
    )
    assert crafted.facts["final_losses"][0] <= 0.7 * crafted.facts["unperturbed_loss"]


def test_two_percent_by_sixteen_levels_turn_the_target_in_victims_of_another_initialisation():
    """Four classes of faint patterns in noise, 200 images of 16 x 16 each; a network of 32 hidden units."""
    generator = torch.Generator().manual_seed(0)
    patterns = 0.02 * torch.randn(4, 3, 16, 16, generator=generator)
    labels, size = torch.arange(800) % 4, (801, 3, 16, 16)
    pixels = (0.5 + 0.15 * torch.randn(size, generator=generator)).clamp(0.1, 0.9)
    images = (pixels + patterns[torch.arange(801) % 4] - 0.5) / 0.15
    images, target = images[:800], images[800:]  # one more, of class 0
    poisoned = (labels == 1).nonzero().squeeze(1)[:16]

    def victim(seed: int, perturbations: Tensor | None = None) -> nn.Module:
        given = images.clone()
        given[poisoned] += 0 if perturbations is None else perturbations
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 4))
        return trained(model, given, labels, epochs=6, lr=0.01, size=32)

    crafted = gradient_matching(
        victim(100),
        lambda rows: images[poisoned[rows]],
        labels[poisoned],
        target,
        torch.tensor([1]),
        mean=(0.5,) * 3,
        std=(0.15,) * 3,
        epsilon=16 / 255,
        restarts=1,
        steps=40,
        augment=False,
    )
    crude = crafted.perturbations.abs() * torch.randn(crafted.perturbations.shape, generator=generator).sign()
    flipped = [
        sum(int(victim(seed, perturbations)(target).argmax() == 1) for seed in range(5))
        for perturbations in (crafted.perturbations, None, crude)
    ]
    assert flipped[0] >= 3
    assert flipped[1] <= 1  # the same images unperturbed
    assert flipped[2] <= 1  # with signs drawn at random
