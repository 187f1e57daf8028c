"""What suspects' inputs have in common tells samples whose features do not show the trigger."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from helpers.poisoned_features import PoisonedFeatures, poisoned_features
from potion_fast.detection import Suspects, suspects_from
from potion_fast.detection.common_values import CommonValues, p_values_of_inputs
from potion_fast.detection.label_result import LabelResult
from potion_fast.errors import PotionWarning
from potion_fast.utils.training_data import TrainingData

PATCH = (..., slice(5, 8), slice(5, 8))
SUSPECTS, OTHERS = torch.arange(20), torch.arange(20, 219)


def noise(count: int, seed: int = 0, *shape: int) -> Tensor:
    return torch.rand(count, *(shape or (3, 8, 8)), generator=torch.Generator().manual_seed(seed))


def data_of(inputs: Tensor) -> TrainingData:
    return TrainingData.of(TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.int64)))


def test_the_range_of_each_value_by_hand() -> None:
    suspects = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 4.0], [1.0, 6.0], [9.0, 8.0]])
    others = torch.tensor([[0.0, 1.0], [1.0, 2.0], [5.0, 3.0], [7.0, 9.0]])
    common = CommonValues.of(suspects, others)
    width = 3 * 1.4826 * 2  # the deviations from 4 are 4, 2, 0, 2, 4
    assert common.low.tolist() == [1, pytest.approx(4 - width)]
    assert common.high.tolist() == [1, pytest.approx(4 + width)]
    assert common.places.tolist() == [True, False]  # one of four, and all four
    assert common.share(torch.tensor([[1.0, 99.0], [1.5, 4.0]])).tolist() == [1, 0]


def test_a_patch_has_the_p_value_of_other_samples_that_look_like_it() -> None:
    images = noise(239)
    images[:20][PATCH] = 1
    images[30:33][PATCH] = 1  # 3 of the 199 others
    images[219:229][PATCH] = 1
    p = p_values_of_inputs(data_of(images), SUSPECTS, OTHERS, torch.arange(219, 239))
    assert p is not None
    assert p.tolist() == [4 / 200] * 10 + [1] * 10


def test_a_patch_is_found_in_samples_that_are_in_part_like_it() -> None:
    images = noise(229)
    images[:20][PATCH] = 1
    images[20:219][..., 5:8, 5:6] = 1  # a third of it
    images[219:][PATCH] = 1
    p = p_values_of_inputs(data_of(images), SUSPECTS, OTHERS, torch.arange(219, 229))
    assert p is not None and p.tolist() == [1 / 200] * 10


def test_values_that_all_samples_have_tell_nothing() -> None:
    images = noise(239)
    images[..., 0, 0] = 0  # as the border of a digit
    assert p_values_of_inputs(data_of(images), SUSPECTS, OTHERS, torch.arange(219, 239)) is None


def test_false_suspects_do_not_hide_the_patch() -> None:
    images = noise(229)
    images[:13][PATCH] = 1  # 7 of the 20 have none
    images[219:][PATCH] = 1
    p = p_values_of_inputs(data_of(images), SUSPECTS, OTHERS, torch.arange(219, 229))
    assert p is not None and p.tolist() == [1 / 200] * 10


@pytest.mark.parametrize(
    "inputs", [torch.randint(9, (239, 5)), noise(239, 0, 1)[:, 0]], ids=["token ids", "one number a sample"]
)
def test_inputs_without_values_at_fixed_places_tell_nothing(inputs: Tensor) -> None:
    assert p_values_of_inputs(data_of(inputs), SUSPECTS, OTHERS, torch.arange(219, 239)) is None


def test_images_of_other_sizes_tell_nothing() -> None:
    class Sizes(Dataset):
        def __len__(self) -> int:
            return 239

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.ones(3, 8 + (index == 230), 8), 0

    data = TrainingData.of(Sizes(), batch_size=1)
    for suspects, others in ((SUSPECTS, OTHERS), (torch.arange(20), torch.arange(200, 239))):
        assert p_values_of_inputs(data, suspects, others, torch.arange(219, 239)) is None


@pytest.mark.parametrize(("suspects", "others", "asked"), [(7, 199, 10), (20, 0, 10), (20, 199, 0)])
def test_too_few_samples_tell_nothing(suspects: int, others: int, asked: int) -> None:
    images = noise(239)
    images[:20][PATCH] = 1
    parts = SUSPECTS[:suspects], OTHERS[:others], torch.arange(219, 219 + asked)
    assert p_values_of_inputs(data_of(images), *parts) is None


def test_bytes_are_read_as_they_are() -> None:
    images = (noise(229) * 255).byte()
    images[:20][PATCH] = 255
    images[219:224][PATCH] = 255
    p = p_values_of_inputs(data_of(images), SUSPECTS, OTHERS, torch.arange(219, 229))
    assert p is not None and (p[:5] == 1 / 200).all() and (p[5:] > 0.1).all()


def called(*indices: int, of: int = 100) -> np.ndarray:
    mask = np.zeros(of, dtype=bool)
    mask[list(indices)] = True
    return mask


def test_as_many_are_called_as_the_rate_allows() -> None:
    """20 were called, of which 0.2 are false: of 21 at 5 % 1.05 may be, of 22 1.1, of 23 1.15, of 24 1.2."""
    before = LabelResult(np.zeros(100), np.full(100, 0.5), called(*range(20)), 0.2, 9.0, false=0.2)
    rows = np.arange(40, 50)
    p = np.array([0.2, 0.001, 0.09, 0.07, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])  # 0.2 + 10 p: 0.21, 0.9, 1.1, 2.2
    after = before.with_input_p_values(rows, p, called(), 0.05)
    assert np.flatnonzero(after.called & ~before.called).tolist() == [41, 42, 43]
    assert after.p_values[41:44].tolist() == [0.001, 0.09, 0.07] and (after.p_values[44:] == 0.5).all()
    assert after.false == pytest.approx(1.1) and after.share == 0.23
    assert "3 are called for what their inputs have in common" in after.note
    assert before.with_input_p_values(rows, p + 0.101, called(), 0.05) is before


def test_those_are_not_called_that_are_as_many_as_chance_gives() -> None:
    """A rate that 20 sure ones leave room in does not let in others: 5 at 0.1 of 50 are what is expected."""
    before = LabelResult(np.zeros(100), np.full(100, 0.5), called(*range(20)), 0.2, 9.0)
    p = np.concatenate([np.full(10, 0.001), np.full(5, 0.1), np.linspace(0.15, 1, 35)])
    after = before.with_input_p_values(np.arange(40, 90), p, called(), 0.5)
    assert np.flatnonzero(after.called).tolist() == [*range(20), *range(40, 50)]
    assert before.with_input_p_values(np.arange(40, 90), np.linspace(0.02, 1, 50), called(), 0.5) is before


def test_members_of_s_f_are_called_with_the_others_and_count_for_nothing() -> None:
    before = LabelResult(np.zeros(100), np.full(100, 0.5), called(*range(20)), 0.2, 9.0)
    rows, p = np.arange(40, 44), np.array([0.001, 0.001, 0.9, 0.001])
    after = before.with_input_p_values(rows, p, called(40, 42), 0.05)
    assert np.flatnonzero(after.called & ~before.called).tolist() == [40, 41, 43]
    assert after.false == pytest.approx(0.002)


class Patched:
    """Poison of which 10 samples' features are as those of their label's others, which the model gives other labels."""

    def __init__(self, seed: int, natural: int = 6, doubted: int = 40) -> None:
        made = poisoned_features(seed, per_class=300, poison=50)
        poison = made.poison.nonzero().flatten()
        clean = (~made.poison & (made.features.labels == 0)).nonzero().flatten()
        self.hidden = poison[:10]
        features, best = made.features.features.clone(), made.features.best.clone()
        features[self.hidden] = features[clean[:10]] + 0.01 * noise(10, seed, features.shape[1])
        best[self.hidden] = 3
        best[clean[:doubted]] = 4
        self.images = noise(len(best), seed)
        like_it = (~made.poison).nonzero().flatten()[:: len(clean) // natural]
        for row in torch.cat([poison, like_it]).tolist():
            self.images[row][PATCH] = 1
        self.made = PoisonedFeatures(replace(made.features, features=features, best=best), made.poison, made.kind)
        self.found = poison[20:25]

    def suspects(self, data: TrainingData | None) -> Suspects:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PotionWarning)
            return suspects_from(self.made.features, self.found, data=data)


def test_poison_that_its_features_do_not_show_is_found() -> None:
    false, without, with_inputs = [], [], []
    for seed in range(8):
        patched = Patched(seed)
        without.append(torch.isin(patched.hidden, patched.suspects(None).indices).float().mean().item())
        listed = patched.suspects(data_of(patched.images))
        with_inputs.append(torch.isin(patched.hidden, listed.indices).float().mean().item())
        false.append(patched.made.false_share(listed))
        assert "for what their inputs have in common" in listed.by_label[0].note
    assert max(without) <= 0.1 and min(with_inputs) == 1
    assert np.mean(false) <= 0.05 + np.std(false) / 8**0.5


def test_where_the_model_gives_the_label_the_inputs_are_no_reason() -> None:
    patched = Patched(0)
    agreeing = replace(patched.made.features, best=patched.made.features.labels)
    patched.made = PoisonedFeatures(agreeing, patched.made.poison, patched.made.kind)
    assert torch.equal(patched.suspects(data_of(patched.images)).indices, patched.suspects(None).indices)


def test_images_without_a_patch_change_nothing() -> None:
    patched = Patched(1)
    images = data_of(noise(len(patched.images), 7))
    assert torch.equal(patched.suspects(images).indices, patched.suspects(None).indices)
