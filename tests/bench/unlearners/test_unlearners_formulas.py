"""Pawelczyk et al.'s unlearners on a model of two weights: where a step leads is computed by hand.

The model's logits are (w · x, 0), so that with q = σ(w · x) and a teacher's probability p, all of class 0,

    ∇ CE = (q − 1) x for label 0, q x for label 1        ∇ KL(p ‖ q) = (q − p) x        ∇ KL_T = T (q(T) − p(T)) x

where q(T) = σ(w · x / T). At w = 0 the two samples below have the gradients (−1, 0) and (0, 2).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from potion_fast.bench.models import create_model
from potion_fast.bench.models.last_layers import last_layers
from potion_fast.bench.unlearners import Loaders, Unlearned, make_unlearner
from potion_fast.bench.unlearners.jit import slope
from potion_fast.bench.unlearners.paired_batches import PairedBatches
from potion_fast.bench.unlearners.scrub import AlternatingPasses
from potion_fast.errors import DataError, ModelError

Data = list[tuple[Tensor, Tensor]]
LN3 = math.log(3)  # σ(ln 3) = 3/4


class Two(nn.Module):
    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights or (0.0, 0.0)))

    def forward(self, x: Tensor) -> Tensor:  # [B, 2] -> [B, 2]
        z = x @ self.w
        return torch.stack([z, torch.zeros_like(z)], 1)


def sample(label: int, *x: float) -> Data:
    """A loader of one batch of one sample."""
    return [(torch.tensor([x]), torch.tensor([label]))]


LEFT, UP = sample(0, 2.0, 0.0), sample(1, 0.0, 4.0)
FAR = sample(0, 9.0, 9.0)  # what must not be read


def unlearned(name: str, forget: Data, retain: Data, model: nn.Module | None = None, **settings: Any) -> Unlearned:
    settings = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, **settings}
    return make_unlearner(name, **settings)(model or Two(), Loaders(forget, retain))


def assert_weights(done: Unlearned, *expected: float) -> None:
    torch.testing.assert_close(done.model.w.detach(), torch.tensor(expected), rtol=2e-6, atol=1e-7)


def test_gd_descends_on_the_retain_set_with_momentum_and_weight_decay_at_a_constant_rate():
    """w₁ = −.1 (−1, 0) = (.1, 0); v₂ = .9 (−1, 0) + (0, 2) + .0005 (.1, 0) = (−.89995, 2); w₂ = (.1 + .089995, −.2)."""
    done = unlearned("gd", FAR, LEFT + UP, epochs=1, momentum=0.9, weight_decay=5e-4)
    assert_weights(done, 0.189995, -0.2)
    assert done.trace[0].lr == 0.1


def test_gd_with_nesterovs_momentum():
    """w₁ = −.1 · 1.9 (−1, 0) = (.19, 0); v₂ = (−.9, 2); w₂ = w₁ − .1 ((0, 2) + .9 (−.9, 2)) = (.19 + .081, −.38)."""
    assert_weights(unlearned("gd", FAR, LEFT + UP, epochs=1, momentum=0.9, nesterov=True), 0.271, -0.38)


def test_ga_ascends_on_the_forget_set():
    """w₁ = .1 (−1, 0); v₂ = .9 (1, 0) − (0, 2) = (.9, −2); w₂ = (−.1 − .09, .2)."""
    assert_weights(unlearned("ga", LEFT + UP, FAR, epochs=1, momentum=0.9), -0.19, 0.2)


def test_ngd_adds_noise_to_the_gradient_before_momentum(monkeypatch: pytest.MonkeyPatch):
    """σ = .2 and a "noise" of (1, −2): g + ξ = (−1 + .2, −.4), w₁ = (.08, .04); the next x is (0, 0), so that
    v₂ = .9 (−.8, −.4) + (.2, −.4) = (−.52, −.76), w₂ = (.132, .116)."""
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.tensor([1.0, -2.0]))
    done = unlearned("ngd", FAR, LEFT + sample(0, 0.0, 0.0), epochs=1, momentum=0.9, variance=0.04)
    assert_weights(done, 0.132, 0.116)


def test_the_noise_of_ngd_is_normal_of_its_variance_and_anew_in_every_step():
    """Inputs of zeros have no gradient: at a rate of 1 the weights are minus the sum of the noises."""

    def noise(steps: int, seed: int = 0) -> Tensor:
        model, data = nn.Linear(100_000, 1, bias=False), [(torch.zeros(1, 100_000), torch.zeros(1, 1))] * 2
        model.weight.data.zero_()
        plain = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
        done = make_unlearner("ngd", iterations=steps, variance=1e-6, seed=seed, **plain)(model, Loaders([], data))
        return done.model.weight.detach().double().flatten() * 1e3

    one, two = noise(1), noise(2)
    for drawn in (one, two - one):
        assert abs(drawn.mean()) < 4 / 100_000**0.5
        assert abs(drawn.var() - 1) < 4 * (2 / 100_000) ** 0.5
        assert abs((drawn**4).mean() - 3) < 4 * (96 / 100_000) ** 0.5
    assert abs((one * (two - one)).mean()) < 4 / 100_000**0.5
    assert torch.equal(noise(1), one) and not torch.equal(noise(1, seed=1), one)


def test_ngd_without_noise_is_gd():
    data = LEFT + UP
    gd, ngd = (unlearned(name, FAR, data, epochs=3, **more) for name, more in (("gd", {}), ("ngd", {"variance": 0})))
    assert torch.equal(gd.model.w, ngd.model.w)


def test_neggrad_plus_weighs_descent_and_ascent():
    """.75 (−1, 0) − .25 (0, 2) = (−.75, −.5), and so w₁ = (.075, .05)."""
    done = unlearned("neggrad-plus", UP, LEFT, epochs=1, beta=0.75)
    assert_weights(done, 0.075, 0.05)
    assert done.gradient_steps == 2


def test_scrub_of_paper_b_is_one_objective():
    """At the teacher's weights KL has no gradient: w₁ = −ln 3 · .5 (−1, 0) = (ln 3 / 2, 0). There the retain sample
    (2, 0) has q = 3/4, the forget sample (−2, 2) has q = 1/4, and p = 1/2 for both:
    .5 (−1/4)(2, 0) + .2 (1/4)(2, 0) − .2 (−1/4)(−2, 2) = (−.25, .1), and so w₂ = (.5 + .25, −.1) ln 3."""
    forget = sample(1, -2.0, 2.0)
    done = unlearned("scrub-pawelczyk", forget, LEFT, epochs=2, lr=LN3, gamma=0.5, kl_weight=0.2)
    assert_weights(done, 0.75 * LN3, -0.1 * LN3)
    assert done.gradient_steps == 4


KURMANJI = [
    (0.0, 0.0),  # away from the teacher, on it: no gradient
    (LN3, 0.0),  # CE alone: −2 ln 3 · .5 (−1, 0)
    (3 * LN3, 2 * LN3),  # −KL₂ on (2, 2): q(2) = 3/4, −2 (3/4 − 1/2)(2, 2) = (−1, −1)
    # on (2, 0): q = 729/730, q(2) = 27/28: .5 (−1/730) 2 + .1 · 2 (27/28 − 1/2) 2
    (3 * LN3 - 2 * LN3 * (-1 / 730 + 0.4 * 13 / 28), 2 * LN3),
]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_scrub_of_its_authors_maximises_kl_alone_and_minimises_both(steps: int):
    settings = {"lr": 2 * LN3, "gamma": 0.5, "alpha": 0.1, "temperature": 2.0, "msteps": 2}
    done = unlearned("scrub-kurmanji", sample(1, 2.0, 2.0), LEFT, budget=steps, **settings)
    assert_weights(done, *KURMANJI[steps - 1])
    assert done.gradient_steps == steps


def test_scrub_of_its_authors_has_a_pass_over_the_forget_set_in_its_first_epochs():
    passes, order = AlternatingPasses(["f"] * 2, ["r"] * 3, forget_passes=2), []
    assert [passes.iterations(epochs) for epochs in (1, 2, 3, 4)] == [5, 10, 13, 16]
    for _ in range(6):
        order.append("".join(passes))
        assert passes.maximising == ("f" in order[-1])
    assert order == ["ff", "rrr", "ff", "rrr", "rrr", "rrr"]
    assert "".join(AlternatingPasses(["f"], ["r"], forget_passes=0)) == "r"
    assert [epoch.iterations for epoch in unlearned("scrub-kurmanji", UP, LEFT * 3).trace] == [1, 4, 5, 8, 11]


def test_cfk_trains_the_last_layers_and_euk_from_new_weights(monkeypatch: pytest.MonkeyPatch):
    """z = b a x, where a = 2, b = 0 and x = 1: ∇b = −1/2 · 2, b₁ = .1, and a is not trained. EUk's b is 5, new
    as 0, and so ends at the same."""

    class Deep(nn.Module):
        def __init__(self, b: float) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            self.a.weight.data.fill_(2.0), self.b.weight.data.fill_(b)

        def forward(self, x: Tensor) -> Tensor:
            z = self.b(self.a(x))
            return torch.cat([z, torch.zeros_like(z)], 1)

    fresh: list[nn.Module] = []

    def zeroed(module: nn.Module) -> None:
        fresh.append(module)
        nn.init.zeros_(module.weight)

    monkeypatch.setattr("potion_fast.bench.unlearners.finetuning.initialise", zeroed)
    for name, b in (("cfk-pawelczyk", 0.0), ("euk-pawelczyk", 5.0)):
        done = unlearned(name, FAR, sample(0, 1.0), Deep(b), epochs=1, k=1)
        assert [p.item() for p in done.model.parameters()] == pytest.approx([2.0, 0.1])
    assert len(fresh) == 1


def test_jit_flattens_the_slope_around_the_forget_set(monkeypatch: pytest.MonkeyPatch):
    """Noises (1, 2) and (3, 4) lead from (0, 10), the top of the batch's range, to (1, 10), and from (5, 5) to (8, 9).
    At w = (1, 0) the outputs rise by 1 over a distance of 1 and by 3 over 5: the slopes are 1 and 3/5, the gradients
    through f(x) alone −(0, 10) / 1 and −(5, 5) / 5, and so w₁ = (1 + .1, 1.1)."""
    x = torch.tensor([[0.0, 10.0], [5.0, 5.0]])
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.tensor([[1.0, 2.0], [3.0, 4.0]]) / 2)
    done = unlearned("jit", [(x, torch.tensor([0, 1]))], FAR, Two(1.0, 0.0), sigma=2.0, copies=3)
    assert_weights(done, 1.1, 1.1)
    assert done.trace[0].loss == pytest.approx(1.6) and done.gradient_steps == 1


def test_jit_adds_its_gradients_up_in_mode_reference(monkeypatch: pytest.MonkeyPatch):
    """The gradient is −(0, 10) − (5, 5) / 5 again as the slopes do not change their sign: w₂ = w₁ + .1 · 2 · that."""
    x = torch.tensor([[0.0, 10.0], [5.0, 5.0]])
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.tensor([[1.0, 2.0], [3.0, 4.0]]) / 2)
    batch = (x, torch.tensor([0, 1]))

    def weights(**settings: Any) -> list[float]:
        loaders = Loaders([batch, batch], FAR, validation=[batch])
        unlearner = make_unlearner("jit", lr=0.1, sigma=2.0, copies=3, keep="last", **settings)
        return unlearner(Two(1.0, 0.0), loaders).model.w.tolist()

    assert weights() == pytest.approx([1.2, 2.2])
    assert weights(mode="reference") == pytest.approx([1.3, 3.3])
    assert weights(mode="reference", momentum=0.0) == weights()


def test_jit_takes_the_number_of_copies_and_survives_a_batch_of_one_value(monkeypatch: pytest.MonkeyPatch):
    calls: list[float] = []
    randn = torch.randn
    monkeypatch.setattr(torch, "randn_like", lambda like: calls.append(1.0) or randn(like.shape))
    model = Two(1.0, 1.0)
    value = slope(model, torch.ones(4, 2), copies=5, sigma=0.5)  # the clamp leaves no noise
    value.backward()
    assert len(calls) == 5 and value == 0 and torch.equal(model.w.grad, torch.zeros(2))


def test_jit_leaves_the_statistics_of_batch_norms_alone():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    done = make_unlearner("jit", iterations=2, lr=0.1)(
        model, Loaders([(torch.randn(8, 2), torch.zeros(8, dtype=torch.long))], [])
    )
    assert done.model[1].num_batches_tracked == 0 and not torch.equal(done.model[1].weight, model[1].weight)


def test_retraining_starts_anew_and_runs_through_the_trainings_schedule_within_its_budget():
    """The factors of 2 iterations are 1 and 1 − 1/2.5 = .6: w₂ = (.1 + .06 · .9, −.06 · 2)."""
    more = {"momentum": 0.9, "fresh": Two}
    done = unlearned("retrain", FAR, LEFT + UP, Two(7.0, 7.0), budget=2, **more)
    assert_weights(done, 0.154, -0.12)
    same = unlearned("eu", FAR, LEFT + UP, Two(8.0, 8.0), iterations=2, **more)
    assert torch.equal(done.model.w, same.model.w)


def test_pairs_go_round_the_forget_set_from_pass_to_pass():
    retain = [(torch.full((2,), float(i)), torch.tensor([i, i])) for i in range(3)]
    forget = [(torch.full((1,), float(i)), torch.tensor([i])) for i in (10, 11)]
    pairs = PairedBatches(forget, retain)
    given = [(int(y[0]), int(f)) for _ in range(2) for _, y, _, f in pairs]
    assert given == [(0, 10), (1, 11), (2, 10), (0, 11), (1, 10), (2, 11)] and len(pairs) == 3
    with pytest.raises(DataError, match="read only once"):
        list(PairedBatches(iter(forget), retain))
    with pytest.raises(DataError, match="no labels"):
        list(PairedBatches([torch.zeros(2)], retain))


@pytest.mark.parametrize(
    ("name", "k", "expected"),
    [
        ("resnet18", 1, ["fc"]),
        ("resnet18", 3, ["layer4.1.conv1", "layer4.1.bn1", "layer4.1.conv2", "layer4.1.bn2", "fc"]),
        ("resnet9", 2, ["features.6.0", "features.6.1", "classifier"]),
        ("small_cnn", 3, ["blocks.0", "blocks.3", "classifier"]),
    ],
)
def test_the_last_layers_of_any_model_with_the_batch_norms_behind_them(name: str, k: int, expected: list[str]):
    model = create_model(name, 10, 3, width=4) if name != "resnet18" else create_model(name, 10, 3)
    assert list(last_layers(model, k)) == expected


def test_layers_that_a_model_does_not_have_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    assert last_layers(model, 2) == ("0", "1", "2")
    for k in (0, 3):
        with pytest.raises(ModelError, match=f"has 2 convolutions and linear layers; k={k}"):
            last_layers(model, k)
    with pytest.raises(ModelError, match="k=3"):
        make_unlearner("cfk-pawelczyk")(model, Loaders([], LEFT))


@pytest.mark.parametrize("name", ["cfk-pawelczyk", "euk-pawelczyk"])
def test_only_the_end_of_a_resnet_changes(name: str):
    torch.manual_seed(0)
    model = create_model("resnet9", 10, 3, width=4).eval()
    data = [(torch.randn(4, 3, 12, 12), torch.tensor([0, 1, 2, 3]))]
    done = make_unlearner(name, iterations=1, lr=0.1, k=2)(model, Loaders(data, data))
    before = model.state_dict()
    changed = {key for key, value in done.model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if key.startswith(("features.6", "classifier"))}
