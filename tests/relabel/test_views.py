"""Views with a part hidden: what they cover, what they say of a trigger, and what has none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from potion_fast.relabel.views import hidden, mean_colour, parts_of, transplanted, unavailable, views_of
from potion_fast.utils.asked_samples import Samples, asked
from potion_fast.utils.inputs import Inputs
from potion_fast.utils.training_data import TrainingData

DATA = TrainingData.of(TensorDataset(torch.zeros(1, 1), torch.zeros(1, dtype=torch.long)), batch_size=3)


class Reads(nn.Module):
    """Class 0 where a pixel of the last rows is above 5, else 1 or 2 by the sign of the first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0, 0, 0]
        trigger = (x.flatten(1).amax(1) > 5).float()
        return torch.stack([2 * trigger, first.sign(), -first.sign()], 1) * self.scale


def views(model: nn.Module, inputs: Tensor | Inputs, labels: Tensor, mean: Tensor | None):
    with asked(model, DATA) as answering:
        return views_of(answering, Samples(DATA, labels, inputs=inputs), mean), answering.forward


@pytest.mark.parametrize("side", [1, 3, 5, 8, 30, 32])
def test_parts_cover_an_image_in_equal_squares(side: int) -> None:
    image = torch.zeros(2, 3, side, side + 1)
    parts = parts_of(image)
    for top, left, bottom, right in parts:
        image[:, :, top:bottom, left:right] += 1
    assert (image >= 1).all() and len(parts) == min(4, side) * min(4, side + 1)
    assert len({(bottom - top, right - left) for top, left, bottom, right in parts}) == 1
    if side % 4 == 0:
        assert (image[:, :, :, :side] == 1).all() or side + 1 > 4


def test_the_best_view_hides_the_trigger_and_gives_the_label_without_it() -> None:
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    x[:, :, 0, 0] = torch.tensor([1.0, -1, 1, -1, 1])[:, None]
    x[:4, :, 7, 6] = 9  # a trigger; the last one bears the label 0 wrongly without any
    found, forward = views(Reads(), x, torch.zeros(5, dtype=torch.long), torch.zeros(1))
    assert found.labels.tolist() == [1, 2, 1, 2, 1]
    assert found.parts[:4].tolist() == [[6, 6, 8, 8]] * 4
    assert found.broken.all() and forward == 5 * 16


def test_a_label_that_no_part_makes_stays_under_every_view() -> None:
    x = torch.ones(2, 1, 8, 8)
    x[:, :, :, 3:5] = 9  # no square hides it all
    found, _ = views(Reads(), x, torch.zeros(2, dtype=torch.long), torch.zeros(1))
    assert not found.broken.any()


@pytest.mark.parametrize("last", [False, True])
def test_hidden_places_take_the_colour_of_the_mean(last: bool) -> None:
    x = torch.rand(4, 3, 8, 8)
    if last:
        x = x.permute(0, 2, 3, 1).contiguous()
    mean = mean_colour(iter([x[:1], x[1:]]))
    assert mean is not None and torch.allclose(mean, x.mean((0, 1, 2) if last else (0, 2, 3)))
    view = hidden(x, (2, 4, 4, 6), mean)
    view = view.permute(0, 3, 1, 2) if last else view
    assert torch.allclose(view[:, :, 2:4, 4:6], mean[None, :, None, None].expand(4, 3, 2, 2))
    changed = view != (x.permute(0, 3, 1, 2) if last else x)
    assert changed.any(1)[:, 2:4, 4:6].all() and changed.sum() <= 4 * 3 * 4


def test_an_image_among_other_inputs_is_hidden_alone() -> None:
    inputs = Inputs((), {"pixel_values": torch.rand(2, 3, 8, 8), "scale": torch.ones(2, 1)})
    view = hidden(inputs, (0, 0, 2, 2), torch.full((3,), 7.0))
    assert (view.kwargs["pixel_values"][:, :, :2, :2] == 7).all()
    assert torch.equal(view.kwargs["scale"], inputs.kwargs["scale"])


def test_spans_of_a_text_are_left_out_each_once_and_never_the_first_token() -> None:
    tokens = torch.arange(40).repeat(2, 1)
    inputs = Inputs((), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    seen: list[int] = []
    for part in parts_of(inputs):
        view = hidden(inputs, part, None)
        left_out = set(range(40)) - set(view.kwargs["input_ids"][0].tolist())
        assert view.kwargs["attention_mask"].shape == view.kwargs["input_ids"].shape
        seen += sorted(left_out)
    assert sorted(seen) == list(range(1, 40)) and len(parts_of(inputs)) == 16


@pytest.mark.parametrize("inputs", [torch.rand(2, 5), torch.rand(2, 6, 7), Inputs((torch.rand(2, 3, 4, 4),) * 2)])
def test_inputs_with_nothing_to_hide_are_named(inputs: Tensor | Inputs) -> None:
    with asked(Reads(), DATA) as answering:
        assert "nothing of the inputs can be hidden" in (unavailable(answering, inputs) or "")


def test_a_part_of_another_image_takes_the_place_of_ones_own() -> None:
    x, donors = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    mixed = transplanted(x, donors, torch.tensor([[0, 2, 2, 4], [6, 6, 8, 8]]))
    assert mixed[0].sum() == 4 and mixed[0, 0, :2, 2:4].sum() == 4
    assert mixed[1].sum() == 4 and mixed[1, 0, 6:, 6:].sum() == 4
    assert not x.any()


def test_a_span_of_another_text_takes_the_place_of_ones_own() -> None:
    mixed = transplanted(
        torch.zeros(2, 9, dtype=torch.long), torch.ones(2, 7, dtype=torch.long), torch.tensor([[0, 2, 1, 4]] * 2)
    )
    assert mixed.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0, 0]] * 2
