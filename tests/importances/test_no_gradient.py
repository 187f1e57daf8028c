"""Losses without a gradient are an error, parameters without one a warning: importances of 0 are never silent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import potion_fast as pf
from helpers.loops import LABELS
from helpers.toys import NetWithUnread, batches, samples
from potion_fast.errors import ImportanceError

ALL = pytest.mark.parametrize(("group_size", "size"), [(1, 8), (4, 8), (4, 3), (1, 1), ("batch", 4)])


class Cut(nn.Module):
    """A network whose output has no gradient."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.inner, self.head = how, nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "detached":
            return self.head(self.inner(x).tanh()).detach()
        if self.how == "rounded":
            return self.head(self.inner(x)).argmax(1, keepdim=True).float()
        with torch.no_grad() if self.how == "no_grad" else torch.inference_mode():
            return self.head(self.inner(x).tanh())


class Adapter(nn.Linear):
    """A low-rank adapter that is added to the frozen weight in eval mode."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)
        self.low, self.high = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))
        self.added = False

    def train(self, mode: bool = True) -> Adapter:
        super().train(mode)
        if self.added == mode:
            with torch.no_grad():
                self.weight += (-1 if mode else 1) * self.high @ self.low
            self.added = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.added else y + x @ self.low.T @ self.high.T


NONE = {
    **{how: lambda how=how: Cut(how) for how in ("detached", "rounded", "no_grad", "inference_mode")},
    "merged-adapters": lambda: nn.Sequential(Adapter(6, 5), nn.Tanh(), Adapter(5, 3)),
}


@ALL
@pytest.mark.parametrize("kind", NONE)
def test_losses_without_a_gradient_are_refused_at_the_first_batch(kind: str, group_size, size: int) -> None:
    torch.manual_seed(0)
    given = []

    class Loader:
        def __iter__(self):
            for batch in batches(torch.randn(8, 6), LABELS[:8], size):
                given.append(batch)
                yield batch

    with pytest.raises(ImportanceError, match=r"no loss depends on a trainable parameter.*detach.*adapters"):
        pf.importance(NONE[kind](), Loader(), group_size=group_size)
    assert len(given) <= 2


@ALL
def test_parameters_that_no_loss_depends_on_are_named_in_one_warning(group_size, size: int) -> None:
    with pytest.warns(pf.PotionWarning, match="no gradient reaches unread: no loss depends on them") as caught:
        got = pf.importance(NetWithUnread(), batches(*samples(8), size), ["xlf", "ssd"], group_size=group_size)
    assert len(caught) == 1
    assert not got[0]["unread"].any() and got[0]["conv.weight"].any()


class Auxiliary(nn.Module):
    """A head of its own that is called and not used, one that only some inputs reach, and one that is detached."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head, self.seldom = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(5, 3)
        self.other, self.watched = nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x).tanh()
        self.kept = self.other(hidden), self.watched(hidden.detach()).detach()
        return self.head(hidden) + (self.seldom(hidden) if (x > 50).any() else 0)


@ALL
def test_a_head_that_is_called_and_not_used_is_named_and_one_that_is_used_late_is_not(group_size, size: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(16, 6)
    inputs[8:] += 100
    expected = r"no gradient reaches other\.weight, other\.bias, watched\.weight, watched\.bias: no loss"
    with pytest.warns(pf.PotionWarning, match=expected):
        got = pf.importance(Auxiliary(), batches(inputs, LABELS[:16], size), group_size=group_size)
    assert got["seldom.weight"].any() or size == 3


@ALL
def test_importances_that_are_all_zero_are_a_warning(group_size, size: int) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))
    nn.init.constant_(model[0].bias, -100.0)
    with pytest.warns(pf.PotionWarning, match="every importance is exactly 0"):
        pf.importance(model, batches(torch.randn(8, 6), LABELS[:8], size), group_size=group_size)
