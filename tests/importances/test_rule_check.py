"""Everything that could make a rule silently wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import potion_fast as pf
from helpers.loops import assert_equals_loop, images, loop
from helpers.networks import Twice
from helpers.toys import assert_same_weights, weights
from potion_fast.errors import ImportanceError
from potion_fast.importances.objectives import norm


class ByName(nn.Module):
    """A layer whose weight is also used by name: hooks see only the call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + F.linear(x.square(), self.linear.weight)


class OneForAll(nn.Module):
    """A position embedding that is looked up once for all samples, then changed by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:  # [B, 3, 4]
        return (x * self.linear(self.embedding(torch.arange(3)[None]))).flatten(1)


class Windows(nn.Module):
    """Samples cut into windows, sample-major or not; the layers see [B · windows, ...] either way."""

    def __init__(self, sample_major: bool) -> None:
        super().__init__()
        self.sample_major, self.linear = sample_major, nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:  # [B, 6]
        windows = x.view(-1, 3, 2)  # [B, 3, 2]
        if not self.sample_major:
            windows = windows.transpose(0, 1)
        y = self.linear(windows.reshape(-1, 2)).view(*windows.shape[:2], 3)
        return (y if self.sample_major else y.transpose(0, 1)).flatten(1)


class Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Raw(nn.Module):
    """Parameters [1, ...]: one that broadcasts over the batch, and two that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.summed = nn.Parameter(torch.zeros(1, 4))
        self.matrix = nn.Parameter(torch.randn(1, 4))

    def forward(self, x: Tensor) -> Tensor:  # [B, 3, 4]
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.summed.sum(0)
        return torch.tanh(x @ self.matrix.T).flatten(1)


def with_hook() -> nn.Module:
    model = nn.Linear(4, 4)
    model.register_forward_hook(lambda module, args, output: output.square())
    return nn.Sequential(model)


def with_forward_replaced() -> nn.Module:
    model = nn.Linear(4, 4)
    model.forward = lambda x: F.linear(x.square(), model.weight, model.bias)
    return nn.Sequential(model)


TRAPS = {
    "weight-used-by-name": (ByName, (5, 4), set()),
    "one-embedding-for-all": (OneForAll, (5, 3, 4), set()),
    "sample-major-windows": (lambda: Windows(True), (5, 6), set()),
    "window-major-windows": (lambda: Windows(False), (5, 6), {"linear.weight", "linear.bias"}),
    "subclass": (lambda: Doubling(4, 3), (5, 4), set()),
    "raw-parameters": (Raw, (5, 3, 4), set()),
    "forward-replaced": (with_forward_replaced, (5, 4), set()),
}


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("trap", TRAPS)
def test_what_only_looks_like_a_layer_of_samples_is_exact(trap: str, group_size: int) -> None:
    torch.manual_seed(0)
    make, shape, fallback = TRAPS[trap]
    model = make().double()
    got = assert_equals_loop(model, torch.randn(shape, dtype=torch.float64), group_size=group_size)
    assert set(got.fallback) == fallback


def test_hooks_of_the_users_own_come_after_the_tap() -> None:
    model, inputs = with_hook().double(), torch.randn(5, 4, dtype=torch.float64)
    got = pf.importance(model, [(inputs,)], group_size=1, dtype=torch.float64)
    for name, want in loop(model, inputs).items():
        torch.testing.assert_close(got[name], want, rtol=1e-12, atol=0)
    assert got.fallback == () and len(model[0]._forward_hooks) == 1


def test_a_batch_norm_that_mixes_samples_is_an_error_that_says_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ImportanceError, match=r"'1'.*track_running_stats=True"):
        pf.importance(model, [(torch.randn(4, 4),)], group_size=1)
    assert all(p.requires_grad for p in model.parameters())


def test_samples_that_mix_are_an_error() -> None:
    class Mixing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0))

    with pytest.raises(ImportanceError, match="depends on other samples"):
        pf.importance(Mixing(4, 3), [(torch.randn(4, 4),)], group_size=1)


def test_a_loss_that_mixes_samples_is_an_error() -> None:
    def centred(outputs: Tensor, labels: Tensor | None) -> Tensor:
        return (outputs - outputs.mean(0)).square().sum(1)

    with pytest.raises(ImportanceError, match="depends on other samples"):
        pf.importance(nn.Linear(4, 3), [(torch.randn(4, 4),)], centred, group_size=1)


def test_an_input_overwritten_after_its_layer_is_an_error() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x))
            outputs = self.second(hidden.mul(1))
            outputs = outputs + self.second(kept := hidden * 1)
            kept += 1
            return outputs

    with pytest.raises(ImportanceError, match="changed in place"):
        pf.importance(Overwriting(), [(torch.randn(4, 4),)], group_size=1)


class Paths(nn.Module):
    """Takes another path through its layers for large inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.always(x)
        return self.sometimes(y) * self.scale if x.max() > 5 else y


def test_a_path_that_only_later_batches_take_is_noticed() -> None:
    model, inputs = Paths().double(), torch.randn(12, 4, dtype=torch.float64)
    inputs[4:8] += 10
    got = pf.importance(model, list(inputs[:, None].flatten(0, 1).split(4)), group_size=1, dtype=torch.float64)
    want = {}
    for part in inputs.split(4):  # the path is chosen by the batch
        for k in range(4):
            model.eval()
            loss = norm(model(part))[k]
            gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
            for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
                want[name] = want.get(name, 0) + gradient.abs() / 12
    for name, one in want.items():
        torch.testing.assert_close(got[name], one, rtol=1e-12, atol=1e-15)


def test_frozen_parameters_stay_out_and_frozen() -> None:
    model, inputs = Twice().double(), images(5, 8)
    model.conv.weight.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    got = pf.importance(model, [(inputs,)], group_size=1, dtype=torch.float64)
    for name, want in loop(model, inputs).items():
        torch.testing.assert_close(got[name], want, rtol=1e-12, atol=0)
    assert "conv.weight" not in got.shapes and not model.conv.weight.requires_grad


@pytest.mark.parametrize("where", ["forward", "losses"])
def test_the_model_is_left_as_it_was_when_something_fails(where: str) -> None:
    class Failing(Raw):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if where == "forward" and len(x) == 7:
                raise RuntimeError("no")
            return y

    def losses(outputs: Tensor, labels: Tensor | None) -> Tensor:
        if where == "losses" and len(outputs) == 7:
            raise RuntimeError("no")
        return norm(outputs)

    model = Failing().train()
    before = weights(model)
    with pytest.raises(RuntimeError, match="no"):
        pf.importance(model, [(torch.randn(4, 3, 4),), (torch.randn(7, 3, 4),)], losses, group_size=1)
    assert_same_weights(model, before)
    assert model.training and all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()
