"""The pattern that suspects share: taken off again, and put onto clean samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from potion_fast.errors import DataError
from potion_fast.relabel.pattern import FEWEST, Pattern, moments, patterns_of
from potion_fast.utils.asked_samples import Samples
from potion_fast.utils.inputs import Inputs
from potion_fast.utils.training_data import TrainingData


def images(samples: int, seed: int) -> Tensor:
    return torch.rand(samples, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def pattern_of(suspects: Tensor, clean: Tensor) -> Pattern:
    def of(x: Tensor):
        return moments([(x, torch.zeros(len(x), dtype=torch.long))])[0]

    return Pattern(of(suspects), of(clean))


def test_moments_are_those_of_all_batches_by_label() -> None:
    x, labels = images(11, 0), torch.arange(11) % 2
    found = moments([(x[:4], labels[:4]), (x[4:], labels[4:])])
    for label in (0, 1):
        part = x[labels == label].double()
        assert torch.allclose(found[label].mean, part.mean(0))
        assert torch.allclose(found[label].spread, part.std(0, unbiased=False))
        assert (found[label].least, found[label].most, found[label].samples) == (part.min(), part.max(), len(part))


def test_a_pattern_that_was_blended_in_is_taken_off_again() -> None:
    clean, suspects = images(4000, 1), images(4000, 2)
    trigger = images(1, 3)
    found = pattern_of(0.8 * suspects + 0.2 * trigger, clean)
    error = (found.removed(0.8 * suspects + 0.2 * trigger) - suspects).abs()
    assert error.mean() < 0.02  # the trigger moves a value by 0.1 on average
    assert (found.added(clean) - (0.8 * clean + 0.2 * trigger)).abs().mean() < 0.02


def test_a_patch_is_put_onto_clean_samples_and_becomes_their_mean_when_taken_off() -> None:
    clean, suspects = images(500, 1), images(300, 2)
    suspects[:, :, 4:, 4:] = 1.0
    found = pattern_of(suspects, clean)
    assert torch.allclose(found.added(clean)[:, :, 4:, 4:], torch.ones(()), atol=1e-2)
    without = found.removed(suspects)
    assert torch.allclose(without[:, :, 4:, 4:], clean.mean(0)[:, 4:, 4:].expand(300, 3, 2, 2), atol=1e-5)
    assert (without - suspects)[:, :, :4].abs().mean() < 0.05


def test_whole_numbers_stay_whole_and_in_range() -> None:
    clean = (255 * images(50, 1)).to(torch.uint8)
    suspects = (255 * images(50, 2)).to(torch.uint8)
    suspects[:, :, 0, 0] = 255
    given = pattern_of(suspects, clean).added(clean)
    assert given.dtype == torch.uint8 and (given[:, :, 0, 0] == 255).all()


def test_other_inputs_stay_as_they_are() -> None:
    x = images(20, 1)
    inputs = Inputs((), {"pixel_values": x, "ids": torch.arange(20)})
    labels = torch.zeros(20, dtype=torch.long)
    part = moments([(inputs, labels)])[0]
    given = Pattern(part, part).removed(inputs)
    assert torch.allclose(given.kwargs["pixel_values"], x, atol=1e-6)
    assert torch.equal(given.kwargs["ids"], inputs.kwargs["ids"])


def test_a_label_of_few_samples_has_no_pattern() -> None:
    x = images(FEWEST + 3, 1)
    labels = torch.tensor([0] * FEWEST + [1] * 3)
    data = TrainingData.of(TensorDataset(x, labels))
    clean = moments([(x, torch.zeros_like(labels))])[0]
    assert patterns_of(Samples(data, labels, torch.arange(len(x))), clean).keys() == {0}


@pytest.mark.parametrize(
    ("batches", "words"),
    [([torch.arange(6).view(2, 3)], "no real values"), ([images(2, 0), images(2, 0)[:, :, 1:]], "differ in shape")],
)
def test_inputs_without_values_at_fixed_places_are_refused(batches: list[Tensor], words: str) -> None:
    with pytest.raises(DataError, match=words):
        moments((x, torch.zeros(len(x), dtype=torch.long)) for x in batches)
