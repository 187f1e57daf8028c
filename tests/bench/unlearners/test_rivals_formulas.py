"""Rivals and defences on small models: where a step leads is computed by hand; see `test_unlearners_formulas`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from helpers.toys import Blobs, assert_same_weights, weights
from helpers.unlearned import loaders as all_loaders
from potion_fast.bench.unlearners import Loaders, TrainingIndex, Unlearned, cf_expanded, make_unlearner
from potion_fast.bench.unlearners.ibau import IBAU
from potion_fast.bench.unlearners.memory_units import SHARED, MemoryUnits, default_blocks
from potion_fast.bench.unlearners.nad import attention, layers_with_maps
from potion_fast.detection import Suspects
from potion_fast.errors import ModelError, PotionError

Data = list[tuple[Tensor, Tensor]]


class Two(nn.Module):
    """Logits (w · x, 0): ∇ CE = (q − 1) x for label 0 and q x for label 1, with q = σ(w · x)."""

    def __init__(self, *w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w or (0.0, 0.0)))

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.w
        return torch.stack([z, torch.zeros_like(z)], 1)


def sample(label: int, *x: float) -> Data:
    return [(torch.tensor([x]), torch.tensor([label]))]


LEFT, UP = sample(0, 2.0, 0.0), sample(1, 0.0, 4.0)  # gradients (−1, 0) and (0, 2) at w = 0
PLAIN: dict[str, Any] = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def softplus(z: float) -> float:
    return math.log1p(math.exp(z))


def assert_weights(done: Unlearned, *expected: float) -> None:
    torch.testing.assert_close(done.model.w.detach(), torch.tensor(expected), rtol=1e-5, atol=1e-6)


# --- with found poison


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_npo_ascends_less_the_farther_it_has_come(beta: float):
    """∇ = −2 σ(−β Δ) ∇CE: ∇CE itself at first, as Δ = 0; then Δ = softplus(.8) − ln 2 at w = (0, .2)."""
    done = make_unlearner("npo", epochs=2, until=None, beta=beta, **PLAIN)(Two(), Loaders(UP, []))
    delta = softplus(0.8) - math.log(2)
    assert_weights(done, 0.0, 0.2 + 0.1 * 2 * sigmoid(-beta * delta) * 4 * sigmoid(0.8))


def test_npo_ends_once_so_few_are_given_their_label():
    done = make_unlearner("npo", epochs=50, until=0.2, **PLAIN)(Two(0.0, -0.3), Loaders(UP, []))
    assert done.gradient_steps < 50  # w₂ < 0 gives the label 1
    assert done.model(torch.tensor([[0.0, 4.0]])).argmax() == 0
    before = make_unlearner("npo", iterations=done.gradient_steps - 1, until=None, **PLAIN)
    assert before(Two(0.0, -0.3), Loaders(UP, [])).model(torch.tensor([[0.0, 4.0]])).argmax() == 1


def test_cuts_takes_back_as_much_of_the_way_into_the_poison_as_is_needed():
    """τ = −.1 (σ(.06) − 1)(2, 0); (.03, 0) − a τ gives another label from a > .3093 on."""
    tau = -0.1 * (sigmoid(0.06) - 1) * 2
    done = make_unlearner("cuts", optimizer="sgd", epochs=1, **PLAIN)(Two(0.03, 0.0), Loaders(LEFT, []))
    assert_weights(done, 0.03 - 0.35 * tau, 0.0)
    assert (done.kept.scale, done.kept.forget_accuracy) == (pytest.approx(0.35), 0.0)
    assert len(done.trace) == 1 + 7 and not done.warnings


def test_cuts_says_where_no_multiple_is_enough():
    done = make_unlearner("cuts", optimizer="sgd", epochs=1, most=0.2, **PLAIN)(Two(0.03, 0.0), Loaders(LEFT, []))
    assert done.kept.forget_accuracy == 1.0
    assert "no multiple of the task vector up to 0.2" in done.warnings[0]


def test_sap_scales_the_directions_of_the_trusted_samples_inputs():
    """Σ x xᵀ = diag(9, 1), so s = (.9, .1), and with a = 2 λ = (1.8 / 1.9, .2 / 1.1).

    The third sample, of a large loss, is not trusted, the fourth was found.
    """
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[5.0, 7.0], [-5.0, 6.0]])
    inputs = torch.tensor([[3.0, 0.0], [0.0, 1.0], [40.0, 1.0], [0.0, 50.0]])
    index = TrainingIndex(TensorDataset(inputs, torch.tensor([0, 0, 1, 0])), [3], batch_size=2)
    done = make_unlearner("sap", trusted=2, alphas=[2.0])(model, Loaders([], [], training=index))
    expected = torch.tensor([[5.0, 7.0], [-5.0, 6.0]]) * torch.tensor([1.8 / 1.9, 0.2 / 1.1])
    torch.testing.assert_close(done.model.weight.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": (1, 3), "padding": "same", "dilation": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
)
def test_sap_leaves_a_convolution_alone_where_all_directions_count(options: dict[str, Any]):
    """With a → ∞ Λ is the identity, on what the patches span; a convolution's outputs then stay what they are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, **options), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(30, 2, 6, 7)
    index = TrainingIndex(TensorDataset(images, torch.arange(30) % 3), [], batch_size=8)
    done = make_unlearner("sap", trusted=30, alphas=[1e12])(model, Loaders([], [], training=index))
    torch.testing.assert_close(done.model(images), model(images), rtol=1e-4, atol=1e-5)


def test_cf_expanded_leaves_out_what_was_found_and_the_suspects(monkeypatch: pytest.MonkeyPatch):
    """Of four samples the first was found and the last is suspect: the mean of (−1, 0) and (0, 2) is (−.5, 1)."""
    monkeypatch.setattr(cf_expanded, "suspects", lambda *given, **options: Suspects.of_indices([3]))
    inputs = torch.tensor([[9.0, 9.0], [2.0, 0.0], [0.0, 4.0], [8.0, 8.0]])
    index = TrainingIndex(TensorDataset(inputs, torch.tensor([0, 0, 1, 0])), [0], batch_size=2)
    done = make_unlearner("cf-expanded", iterations=1, **PLAIN)(Two(), Loaders([], [], training=index))
    assert_weights(done, 0.05, -0.1)


# --- REM


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


def units(model: nn.Module, inputs: Tensor, **options: Any) -> MemoryUnits:
    options = {"share": 0.5, "kept": 0.5, "seed": 0, **options}
    return MemoryUnits(model, default_blocks(model, inputs), inputs, **options)


def test_memory_units_change_nothing_at_first_and_only_for_the_samples_that_use_them():
    torch.manual_seed(0)
    model, inputs, ids = Tiny(), torch.randn(6, 3), torch.arange(6)
    memory = units(model, inputs)
    assert default_blocks(model, inputs) == ["first", "second"] and memory.units == [2, 2]
    with memory.on(model, ids):
        assert torch.equal(model(inputs), Tiny.forward(model, inputs))
    for branch in memory.branches:
        nn.init.ones_(branch.out.weight)
    plain = model(inputs)
    masks = memory.masks(ids)
    with memory.on(model, ids):
        with_memory = model(inputs)
    unused = (masks == 0).all(1)
    assert torch.equal(with_memory[unused], plain[unused])
    assert torch.equal(model(inputs), plain)  # no hook is left


def test_all_of_s_f_shares_its_units_and_every_other_sample_has_its_own():
    torch.manual_seed(0)
    memory = units(Tiny(), torch.randn(2, 3), share=8.0)
    masks = memory.masks(torch.tensor([SHARED, 3, SHARED, 3, 4]))
    assert torch.equal(masks[0], masks[2]) and torch.equal(masks[1], masks[3])
    assert not torch.equal(masks[3], masks[4]) and not torch.equal(masks[0], masks[4])
    many = memory.masks(torch.arange(4000))
    assert abs(many.mean() - 0.5) < 4 * 0.5 / many.numel() ** 0.5


@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (5, 6, 3)])
def test_memory_units_stand_beside_convolutions_and_layers_on_tokens(shape: tuple[int, ...]):
    torch.manual_seed(0)
    if len(shape) == 4:
        model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 5, 1), nn.Flatten(), nn.LazyLinear(2))
    else:
        model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 5), nn.Flatten(), nn.LazyLinear(2))
    inputs = torch.randn(*shape)
    model(inputs)
    memory = units(model, inputs)
    assert memory.names == ["0", "1"] and memory.units == [4, 2]
    with memory.on(model, torch.arange(5)):
        assert model(inputs).shape == (5, 2)


def test_a_block_that_there_is_not_is_named():
    with pytest.raises(ModelError, match="third"):
        MemoryUnits(Tiny(), ["third"], torch.randn(2, 3), 0.2, 0.5, 0)


def test_the_first_step_of_rem_is_one_of_the_cross_entropy():
    """Where S_f is erased there is no step of NPO; at Δ = 0 the gradient of 2 log σ(Δ) is that of CE."""
    torch.manual_seed(0)
    model, inputs, labels = Tiny(), torch.randn(8, 3), torch.arange(8) % 2
    wrong = [(inputs[:1], 1 - model(inputs[:1]).argmax(1))]
    index = TrainingIndex(TensorDataset(inputs, labels), [], batch_size=8)
    rem = make_unlearner("rem", iterations=1, lr=0.1, weight_decay=0.0)
    done = rem(model, Loaders(wrong, [], training=index))
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels), list(model.parameters()))
    for after, before, gradient in zip(done.model.parameters(), model.parameters(), gradients, strict=True):
        torch.testing.assert_close(after.detach(), before.detach() - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    assert done.gradient_steps == 1 and done.kept.steps == 1


def test_rem_keeps_the_round_with_the_largest_product_and_ends_without_gain(blobs: Blobs):
    rem = make_unlearner("rem", iterations=10**6, patience=2, erasing_epochs=20, lr=0.05)
    done = rem(blobs.model, all_loaders(blobs))
    products = [entry.product for entry in done.trace]
    place = products.index(max(products))
    assert done.kept is done.trace[place] and len(done.trace) == place + 3
    for entry in done.trace:
        assert entry.product == pytest.approx(entry.retain_accuracy * (1 - max(entry.forget_accuracy, 0.2)))


# --- with clean samples


def test_fine_tuning_descends_on_the_clean_samples_alone():
    loaders = Loaders(sample(0, 9.0, 9.0), sample(0, 9.0, 9.0), clean=LEFT + UP)
    assert_weights(make_unlearner("ft", epochs=1, **PLAIN)(Two(), loaders), 0.1, -0.2)


@pytest.mark.parametrize("name", ["ft", "ft-sam", "nad", "anp", "i-bau"])
def test_defences_say_what_they_need(blobs: Blobs, name: str):
    with pytest.raises(PotionError, match=f"{name} trains on clean samples"):
        make_unlearner(name)(blobs.model, Loaders(blobs.forget(), blobs.retain()))


def test_ft_sam_takes_the_gradient_where_large_weights_are_perturbed():
    """At (1, 0) g = (σ(2) − 1)(2, 0), so T² g / ‖T g‖ = (−1, 0); at (1 − ρ, 0) with ρ = .5 g = (σ(1) − 1)(2, 0)."""
    done = make_unlearner("ft-sam", epochs=1, rho=0.5, **PLAIN)(Two(1.0, 0.0), Loaders([], [], clean=LEFT))
    assert_weights(done, 1 - 0.1 * 2 * (sigmoid(1) - 1), 0.0)
    assert done.gradient_steps == 2


def test_ft_sam_without_a_gradient_stays_where_it_is():
    done = make_unlearner("ft-sam", epochs=1, **PLAIN)(Two(1.0, 0.0), Loaders([], [], clean=sample(0, 0.0, 0.0)))
    assert_weights(done, 1.0, 0.0)


def test_attention_maps_are_sums_of_squares_over_channels_of_length_one():
    outputs = torch.tensor([[[[3.0, 0.0]], [[4.0, 12.0]]]])  # 25 and 144 at two places
    expected = torch.tensor([[25.0, 144.0]]) / math.hypot(25, 144)
    torch.testing.assert_close(attention(outputs), expected)
    torch.testing.assert_close(attention(outputs[0, :, 0].T[None]), expected)  # tokens with two numbers each


def test_nad_follows_its_teacher_the_more_the_larger_beta():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    clean = [(torch.randn(8, 1, 8, 8), torch.arange(8) % 2)]
    model(clean[0][0])
    assert layers_with_maps(model, clean) == ["0", "1", "2"]

    def difference(beta: float) -> float:
        options = {**PLAIN, "teacher_epochs": 40, "epochs": 5, "lr": 0.05}
        teacher = make_unlearner("ft", **{**PLAIN, "epochs": 40, "lr": 0.05})(model, Loaders([], [], clean=clean)).model
        student = make_unlearner("nad", beta=beta, **options)(model, Loaders([], [], clean=clean)).model
        maps = [attention(part[:3](clean[0][0])) for part in (teacher, student)]
        return (maps[0] - maps[1]).square().sum().item()

    assert difference(500.0) < 0.7 * difference(0.0)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_anp_moves_the_masks_down_the_loss_and_prunes_the_small_ones():
    """Of two samples the normed inputs are ±(1, −1), and with the labels 1 and 0 L = softplus(m₀ + m₁), whose slope is
    σ(m₀ + m₁): m = 1 − .2 σ(2) = .8238; then v = .9 σ(2) + σ(1.6477), m = .4976; then m = .0579 < .2."""
    clean = [(torch.tensor([[3.0, -3.0], [-3.0, 3.0]]), torch.tensor([1, 0]))]
    for iterations, pruned in ((2, 0), (3, 2)):
        anp = make_unlearner("anp", iterations=iterations, alpha=1.0, epsilon=0.0)
        done = anp(Normed(), Loaders([], [], clean=clean))
        assert (done.kept.channels, done.kept.of) == (pruned, 2)
        assert done.model.norm.weight.tolist() == ([0.0, 0.0] if pruned else [1.0, 1.0])
        assert torch.equal(done.model.norm.running_mean, torch.zeros(2))
        assert done.gradient_steps == 3 * iterations


def test_the_adversarial_change_of_anp_stays_within_epsilon_and_raises_the_loss():
    torch.manual_seed(0)
    ones, epsilon = [torch.ones(3)], 0.4

    def loss(batch: object, gains: list[Tensor], shifts: list[Tensor]) -> Tensor:
        return (gains[0] * torch.tensor([1.0, -2.0, 3.0])).sum() - shifts[0].sum()

    changes, shifts = make_unlearner("anp", epsilon=epsilon)._worst(loss, (ones[0], ones[0]), ones, ones)
    for change, rising in ((changes[0], [1, -1, 1]), (shifts[0] - 1, [-1, -1, -1])):
        assert (change.abs() <= epsilon + 1e-6).all()
        assert (change.sign() == torch.tensor(rising)).all()


def test_the_hypergradient_of_i_bau_follows_the_fixed_point():
    """L = θ δ − δ²/2, η = .1: g = ∂L/∂δ = θ − δ, ∂Φ/∂δ = 1 − η, ∂Φ/∂θ = η.

    Directly δ, and through Φ the first K terms of the series, g (1 − (1 − η)^K).
    """
    theta = nn.Parameter(torch.tensor([3.0]))
    (got,) = IBAU(decay=0.0).hypergradient(
        lambda batch, change: (theta * change - change.square() / 2).sum(),
        (torch.zeros(1), torch.zeros(1)),
        torch.tensor([1.0]),
        [theta],
    )
    assert got.item() == pytest.approx(1.0 + 2.0 * (1 - 0.9**5), rel=1e-6)


def test_i_bau_lowers_the_loss_at_the_worst_change_in_the_ball(blobs: Blobs):
    batch = blobs.inputs[20:], blobs.clean[20:]
    ibau = make_unlearner("i-bau", rounds=30, lr=3e-3, radius=4.0)

    def worst(model: nn.Module) -> tuple[float, float]:
        def loss(batch: tuple[Tensor, Tensor], change: Tensor) -> Tensor:
            return nn.functional.cross_entropy(model(batch[0] + change), batch[1])

        change = ibau._worst(loss, batch)
        return loss(batch, change).item(), change.norm().item()

    done = ibau(blobs.model, Loaders([], [], clean=[batch]))
    before, after = worst(blobs.model), worst(done.model)
    assert after[0] < 0.7 * before[0] and max(before[1], after[1]) <= 4.0 + 1e-5
    assert (done.model(batch[0]).argmax(1) == batch[1]).double().mean() > 0.97
    assert done.gradient_steps == 30 * (5 + 1)
    again = ibau(blobs.model, Loaders([], [], clean=[batch]))
    assert_same_weights(again.model, weights(done.model))


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return Blobs()
