"""Samples that mix are refused alike at every batch size of the loader, and rounding is not taken for mixing."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import potion_fast as pf
from helpers.loops import LABELS, assert_equals_loop, loop
from helpers.toys import batches
from potion_fast.errors import ImportanceError

SIZES = [1, 2, 3, 8, 12, 24]


class Mixing(nn.Module):
    """Two layers with something between them that is made of the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.first(x.to(self.head.weight.dtype)).tanh()))


class Standardised(Mixing):
    def between(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0, correction=0) + 1e-3)


class Functional(Mixing):
    def between(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


class Largest(Mixing):
    """A scale without a gradient."""

    def between(self, x: Tensor) -> Tensor:
        return x / x.abs().max().detach()


class Quantised(Mixing):
    """A scale of all samples, rounding, and a gradient that goes straight through."""

    def between(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.abs().max() / 7
            rounded = (x / scale).round() * scale
        return x + (rounded - x).detach()


class Contrasted(Mixing):
    """The output is how like the others of the batch a sample is."""

    def between(self, x: Tensor) -> Tensor:
        return x + (x @ x.T).softmax(1) @ x.detach()


class Place(Mixing):
    """The first two samples of a batch are special."""

    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x[:2], 2 * x[2:]])


class Neighbour(Mixing):
    """One sample away, and without a gradient."""

    def between(self, x: Tensor) -> Tensor:
        return x + 0.1 * x.roll(1, 0).detach()


class Full(Mixing):
    """An expert that takes the first twenty samples alone."""

    def between(self, x: Tensor) -> Tensor:
        return x * (torch.arange(len(x))[:, None] < 20)


class Late(Mixing):
    """Mixes where a sample is far from the others."""

    def between(self, x: Tensor) -> Tensor:
        return x - x.mean(0).detach() if x.max() > 5 else x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.first(x).tanh() + (x[:, :1] / 10).round()))


class ByMean(Mixing):
    """Every sample takes the branch that the batch's mean says."""

    def between(self, x: Tensor) -> Tensor:
        return x.sin() if x.mean() > 0 else x.tanh()


class OwnMode(nn.BatchNorm1d):
    """Stays in training mode, whatever it is told."""

    def train(self, mode: bool = True) -> OwnMode:
        return super().train(True)


MIXING = [Standardised, Functional, Largest, Quantised, Contrasted, Place, Neighbour]


def refused(model: nn.Module, inputs: Tensor, size: int, group_size: int, objective: str = "xlf") -> str:
    with pytest.raises(ImportanceError, match=r"mixes|depends on other samples") as raised:
        pf.importance(model, batches(inputs, LABELS[: len(inputs)], size), objective, group_size=group_size)
    return str(raised.value)


@pytest.mark.parametrize("integers", [False, True], ids=["floats", "integers"])
@pytest.mark.parametrize("kind", MIXING, ids=lambda kind: kind.__name__)
def test_mixed_samples_are_refused_alike_at_every_batch_size(kind: type[Mixing], integers: bool) -> None:
    torch.manual_seed(0)
    model = kind()
    inputs = torch.randint(-3, 4, (24, 6)) if integers else torch.randn(24, 6)
    for group_size in (1, 8, 24):
        sizes = SIZES[1:] if kind is Functional else SIZES  # torch itself refuses a batch of one there
        assert len({refused(model, inputs, size, group_size) for size in sizes}) == 1


@pytest.mark.parametrize("norm", [lambda: nn.BatchNorm1d(8, track_running_stats=False), lambda: OwnMode(8)])
def test_batch_statistics_are_refused_and_named_alike_at_every_batch_size(norm) -> None:
    model = nn.Sequential(nn.Linear(6, 8), norm(), nn.Tanh(), nn.Linear(8, 3))
    outcomes = {refused(model, torch.randn(24, 6), size, group) for size in SIZES for group in (1, 8, 24)}
    assert len(outcomes) == 1 and "'1'" in outcomes.pop()


def test_an_expert_that_is_full_is_noticed_where_it_is() -> None:
    torch.manual_seed(0)
    model, inputs = Full().double(), torch.randn(24, 6, dtype=torch.float64)
    for group_size in (1, 8, 24):
        refused(model, inputs, 24, group_size)
    assert_equals_loop(model, inputs, group_size=4, batch=8)


@pytest.mark.parametrize("sizes", [(24,), (1, 12, 11), (1, 1, 8, 14), (4,) * 6])
@pytest.mark.parametrize("group_size", [1, 8])
def test_a_branch_that_the_whole_batch_takes_is_noticed(group_size: int, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(24, 6)
    data = list(zip(inputs.split(sizes), LABELS[:24].split(sizes), strict=True))
    with pytest.raises(ImportanceError, match="depends on other samples"):
        pf.importance(ByMean(), data, group_size=group_size)


def test_a_batch_that_mixes_late_is_noticed_there() -> None:
    torch.manual_seed(0)
    inputs = torch.rand(64, 6)
    inputs[48:, 0] = 100 * torch.rand(16)
    for group_size in (1, 4, 8):
        refused(Late(), inputs, 4, group_size)


def test_whole_batches_as_groups_may_mix() -> None:
    model, inputs = Standardised().double(), torch.randn(24, 6, dtype=torch.float64)
    got = pf.importance(model, batches(inputs, LABELS[:24], 8), group_size="batch", dtype=torch.float64)
    for name, want in loop(model, inputs, group_size=8).items():
        torch.testing.assert_close(got[name], want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("size", [1, 4, 24])
def test_a_loss_that_mixes_samples_is_refused(size: int) -> None:
    def centred(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - outputs.mean(0).detach()).square().sum(1)

    model = nn.Linear(6, 3)
    with pytest.raises(ImportanceError, match="depends on other samples"):
        pf.importance(model, batches(torch.randn(24, 6), LABELS[:24], size), centred, group_size=4)


class Sharp(nn.Module):
    """Large logits that cancel, so that the loss is small beside its rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return 30 * self.head(x) + 100


@pytest.mark.parametrize("objective", ["ssd", "xlf"])
@pytest.mark.parametrize(
    ("dtype", "amp"),
    [(torch.float32, None), (torch.float32, torch.bfloat16), (torch.float32, torch.float16), (torch.bfloat16, None)],
)
def test_rounding_is_not_taken_for_mixing(dtype: torch.dtype, amp: torch.dtype | None, objective: str) -> None:
    torch.manual_seed(0)
    model, inputs = Sharp().to(dtype), torch.randn(64, 3, 12, 12).to(dtype)
    with torch.no_grad():
        labels = model(inputs).argmax(1)  # a model that is right, and sure of it
    for size in (1, 16):
        pf.importance(model, batches(inputs, labels, size), objective, group_size=1 if size > 1 else 4, amp=amp)


class LastInFloat64(Mixing):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double()


def test_rounding_in_float32_is_none_of_a_loss_in_float64() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(24, 6)

    def losses(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.double(), labels, reduction="none")

    model = LastInFloat64()
    model.between = lambda x: x  # type: ignore[method-assign]
    plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    for size in (3, 24):
        for network, objective in ((model, "xlf"), (model, "ssd"), (plain, losses)):
            pf.importance(network, batches(inputs, LABELS[:24], size), objective, group_size=4)
    model.between = Standardised.between.__get__(model)  # type: ignore[method-assign]
    with pytest.raises(ImportanceError, match="other samples"):
        pf.importance(model, batches(inputs, LABELS[:24], 24), group_size=4)


class Packed(nn.Module):
    """All samples in one sequence, under a mask by which each sees itself alone: 0 times the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:  # [B, 6] -> [B, 3]
        place = torch.arange(len(x))
        q, k, v = self.first(x[None]).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v, place[:, None] == place)[0])


class Dispatched(Mixing):
    """A product with a matrix of the batch that is the identity."""

    def between(self, x: Tensor) -> Tensor:
        return torch.eye(len(x), dtype=x.dtype) @ x


@pytest.mark.parametrize("kind", [Packed, Dispatched])
@pytest.mark.parametrize("group_size", [1, 4])
def test_samples_that_others_are_masked_from_do_not_mix(kind: type[nn.Module], group_size: int) -> None:
    torch.manual_seed(0)
    for size in (3, 12):
        assert_equals_loop(kind().double(), torch.randn(12, 6, dtype=torch.float64), "ssd", group_size, batch=size)


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is scaled to a norm of 1 over the whole batch."""

    @staticmethod
    def forward(context, x):
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return gradient / torch.linalg.vector_norm(gradient)


class ScaledGradients(Mixing):
    def between(self, x: Tensor) -> Tensor:
        return Scaled.apply(x)


def test_gradients_that_mix_where_losses_do_not_are_refused() -> None:
    torch.manual_seed(0)
    model, inputs = ScaledGradients().double(), torch.randn(24, 6, dtype=torch.float64)
    for size in (2, 8, 24):
        with pytest.raises(ImportanceError, match="depends on other samples"):
            pf.importance(model, batches(inputs, LABELS[:24], size), "xlf", group_size=1)


def test_a_few_samples_that_an_expert_drops_are_noticed() -> None:
    class Capacity(Mixing):
        def between(self, x: Tensor) -> Tensor:
            chosen = x[:, 0] > 0
            return x * (~chosen | (chosen.cumsum(0) <= 16))[:, None]

    torch.manual_seed(0)
    refused(Capacity(), torch.randn(90, 6), 90, 1)


class WithoutSingles(nn.Module):
    """Cannot take a batch of one sample, whose dimension it drops."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x.squeeze())
        assert y.shape == (len(x), 3)
        return y


def test_a_model_that_takes_no_single_sample_is_compared_with_pairs() -> None:
    assert_equals_loop(WithoutSingles().double(), torch.randn(8, 6, dtype=torch.float64), group_size=2, batch=8)


# --- Random numbers -------------------------------------------------------------------------------------------------


class Noisy(Mixing):
    def between(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class FaintlyNoisy(Mixing):
    """One random number for all samples, of little effect."""

    def between(self, x: Tensor) -> Tensor:
        return x * (1 + 0.001 * torch.rand(()))


@pytest.mark.parametrize("kind", [Noisy, FaintlyNoisy])
@pytest.mark.parametrize("size", [1, 4, 24])
def test_a_model_that_is_random_in_eval_mode_gets_one_warning_and_no_refusal(kind: type[Mixing], size: int) -> None:
    torch.manual_seed(0)
    model, data = kind(), batches(torch.randn(24, 6), LABELS[:24], size)
    for group_size in (1, 4, "batch"):
        with pytest.warns(pf.PotionWarning, match="random in eval mode") as caught:
            pf.importance(model, data, ["xlf", "ssd"], group_size=group_size)
        assert len(caught) == 1


def test_checks_draw_no_random_numbers() -> None:
    """A pass over a random model draws what a backward pass on each batch would, and nothing else."""
    torch.manual_seed(0)
    model, inputs = Noisy().double(), torch.randn(24, 6, dtype=torch.float64)
    torch.manual_seed(1)
    want = loop(model, inputs, group_size=4)
    after = torch.rand(3)
    for group_size in (4, "batch"):
        torch.manual_seed(1)
        with warnings.catch_warnings(action="ignore", category=pf.PotionWarning):
            got = pf.importance(model, batches(inputs, LABELS[:24], 4), group_size=group_size, dtype=torch.float64)
        for name, right in want.items():
            torch.testing.assert_close(got[name], right, rtol=1e-12, atol=1e-15)
        assert torch.equal(torch.rand(3), after)
