"""The Gaussian Unlearning Score, held against what probability theory says of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from helpers.toys import Net, batches, net, samples
from potion_fast.bench.attacks import Gaussian
from potion_fast.bench.metrics.detection import (
    gaussian_trade_off,
    gaussian_true_positive_rate,
    quantiles,
    threshold,
    trade_off,
    true_positive_rate,
)
from potion_fast.bench.metrics.gaussian import (
    GaussianEvaluation,
    dependence,
    evaluate_gaussian,
    fresh_dependence,
    gaussian_unlearning_score,
)
from potion_fast.bench.metrics.input_gradients import cross_entropy, input_gradients, log_odds
from potion_fast.errors import DataError, ModelError

VARIANCE = 0.32


def planted(mu: float, n: int = 100_000) -> Tensor:
    """I of n samples with a mean of mu."""
    return torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + mu


# Gradients


@pytest.mark.parametrize("what", [cross_entropy, log_odds])
def test_one_backward_gives_what_a_loop_over_the_samples_gives(what: Any):
    model = net(dtype=torch.float64)
    images, labels = samples(9, dtype=torch.float64)
    together, logits = input_gradients(model, images, labels, what)
    alone = [input_gradients(model, images[i : i + 1], labels[i : i + 1], what)[0] for i in range(9)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(logits, model.eval()(images))


def test_gradients_are_the_slopes_of_the_loss():
    model = net(dtype=torch.float64).eval()
    images, labels = samples(2, dtype=torch.float64)
    gradients, _ = input_gradients(model, images, labels)
    direction = torch.randn_like(images)
    with torch.no_grad():
        losses = [cross_entropy(model(images + step * direction), labels) for step in (1e-5, -1e-5)]
    slopes = (losses[0] - losses[1]) / 2e-5
    torch.testing.assert_close((gradients * direction).sum(dim=(1, 2, 3)), slopes, rtol=1e-6, atol=1e-8)


def test_the_model_is_left_as_it_was():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = samples(4)
    input_gradients(model, images, labels)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # batch norm's, too
    assert model.training and not images.requires_grad


def test_log_odds_have_the_loss_s_direction_turned_round():
    model = net(dtype=torch.float64)
    images, labels = samples(9, dtype=torch.float64)
    of_loss, logits = input_gradients(model, images, labels)
    of_odds, _ = input_gradients(model, images, labels, log_odds)
    missing = 1 - logits.softmax(dim=1)[torch.arange(9), labels]  # 1 - p
    torch.testing.assert_close(of_loss, -missing.view(-1, 1, 1, 1) * of_odds, rtol=1e-12, atol=1e-12)


class Sure(nn.Module):
    """A linear layer whose p of class 0 is almost 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)
        nn.init.constant_(self.layer.bias[0], 20.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def test_the_direction_is_kept_where_the_loss_vanishes_in_float32():
    torch.manual_seed(0)
    model = Sure()
    images, labels = torch.randn(5, 3, 2, 2), torch.zeros(5, dtype=torch.int64)
    logits = model(images)
    assert not nn.functional.cross_entropy(logits, labels)  # 0 in float32: its gradient is lost
    noise = torch.randn(5, 3, 2, 2)
    exact, _ = input_gradients(model.double(), images.double(), labels)
    found = evaluate_gaussian(model.float(), [(images, labels)], [(images, labels)], noise, 1.0)
    torch.testing.assert_close(found.statistics, -dependence(exact, noise, 1.0), rtol=1e-5, atol=1e-5)
    assert found.flat == 0


@pytest.mark.parametrize(
    ("model", "images", "error", "words"),
    [
        (nn.Flatten(), torch.zeros(2, 3, dtype=torch.int64), DataError, "floating point, not torch.int64"),
        (nn.Flatten(0), torch.zeros(2, 3), ModelError, r"logits \[B, C\].*not \[6\]"),
        (nn.Threshold(1.0, 0.0), torch.zeros(2, 3), None, ""),
    ],
)
def test_what_has_no_input_gradient_is_refused(model: nn.Module, images: Tensor, error: Any, words: str):
    labels = torch.zeros(2, dtype=torch.int64)
    if error is None:
        assert not input_gradients(model, images, labels)[0].any()  # flat, and so 0
        return
    with pytest.raises(error, match=words):
        input_gradients(model, images, labels)


def test_a_model_that_cuts_the_graph_is_refused():
    class Detached(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    for model in (Detached(3, 2), Detached(3, 2).requires_grad_(False)):
        with pytest.raises(ModelError, match="no gradient with respect to its inputs"):
            input_gradients(model, torch.zeros(1, 3), torch.tensor([0]))


# The statistic


def test_independent_noise_gives_a_standard_normal():
    n = 100_000
    generator = torch.Generator().manual_seed(1)
    gradients = torch.rand(n, 12, generator=generator) ** 4  # of any distribution and length
    noise = torch.randn(n, 12, generator=generator) * math.sqrt(VARIANCE)
    statistics = dependence(gradients, noise, VARIANCE)
    assert statistics.dtype == torch.float64
    assert stats.kstest(statistics.numpy(), "norm").pvalue > 0.01
    assert stats.kstest((statistics * math.sqrt(VARIANCE)).numpy(), "norm").pvalue < 1e-9  # eps once, and not twice
    assert abs(gaussian_unlearning_score(statistics).z) < 3


def test_a_gradient_that_is_the_noise_gives_the_root_of_its_size():
    d = 3 * 32 * 32
    noise = Gaussian(variance=VARIANCE).draw(range(50), (3, 32, 32), 0).values
    statistics = dependence(7 * noise, noise, VARIANCE)
    torch.testing.assert_close(statistics, noise.double().flatten(1).norm(dim=1) / math.sqrt(VARIANCE))
    assert statistics.mean().item() == pytest.approx(math.sqrt(d), abs=4 * math.sqrt(0.5 / 50))  # a chi of d degrees
    torch.testing.assert_close(dependence(-noise, noise, VARIANCE), -statistics)


def test_a_gradient_of_zero_shows_no_noise_and_one_that_is_not_finite_is_not_hidden():
    gradients = torch.tensor([[0.0, 0.0], [torch.nan, 1.0], [3.0, 4.0]])
    noise = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    statistics = dependence(gradients, noise, 4.0)
    assert statistics[0] == 0 and statistics[1].isnan() and statistics[2].item() == pytest.approx(11 / 5 / 2)
    fresh = fresh_dependence(gradients, 3, torch.Generator().manual_seed(0))
    assert not fresh[0].any() and fresh[1].isnan().all() and fresh[2].all()


def test_fresh_noises_give_a_standard_normal_whatever_the_gradient(monkeypatch: pytest.MonkeyPatch):
    gradients = torch.rand(50, 3, 4, 4, generator=torch.Generator().manual_seed(1)) ** 4 * 1e-20
    fresh = fresh_dependence(gradients, 400, torch.Generator().manual_seed(0))
    assert stats.kstest(fresh.flatten().numpy(), "norm").pvalue > 0.01
    assert fresh.std(dim=1).min() > 0.8 and len(fresh.unique()) > 0.99 * fresh.numel()
    monkeypatch.setattr("potion_fast.bench.metrics.gaussian.CHUNK", 48 * 32)  # 32 noises at once
    pieces = fresh_dependence(gradients, 400, torch.Generator().manual_seed(0))
    assert pieces.shape == fresh.shape and stats.kstest(pieces.flatten().numpy(), "norm").pvalue > 0.01


def test_the_score_is_a_mean_with_its_errors():
    score = gaussian_unlearning_score(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (score.gus, score.error, score.z) == (3.0, 0.5, 6.0)
    assert score.sample_error == pytest.approx(math.sqrt(14 / 3 / 4))
    assert score.interval == pytest.approx((3 - 1.959964 * score.sample_error, 3 + 1.959964 * score.sample_error))
    assert gaussian_unlearning_score(torch.tensor([2.0])).sample_error == 1.0
    assert gaussian_unlearning_score(planted(0, 750)).error == pytest.approx(0.0365, abs=1e-4)
    with pytest.raises(DataError, match="there is none"):
        gaussian_unlearning_score(torch.empty(0))


# The tests that are made from it


def test_the_threshold_is_two_sided():
    assert threshold() == pytest.approx(2.5758293035489004, abs=1e-12)
    assert threshold(0.05) == pytest.approx(stats.norm.isf(0.025))
    fresh = planted(0).view(100, 1000)
    spread = math.sqrt(0.01 * 0.99 / fresh.numel()) / (2 * stats.norm.pdf(threshold()))  # of an empirical quantile
    assert threshold(fresh=fresh) == pytest.approx(threshold(), abs=4 * spread)
    assert (fresh.abs() > threshold(fresh=fresh)).sum() == fresh.numel() // 100


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0, 2.5, -1.0])
def test_a_planted_mean_is_found_as_often_as_theory_says(mu: float):
    statistics, n = planted(mu), 100_000
    for fpr in (0.001, 0.01, 0.1, 0.5):
        expected = gaussian_true_positive_rate(fpr, mu).item()
        error = math.sqrt(expected * (1 - expected) / n)
        assert true_positive_rate(statistics, fpr) == pytest.approx(expected, abs=4 * error)
    rates = torch.tensor([0.001, 0.01, 0.1, 0.5, 0.9], dtype=torch.float64)
    expected = gaussian_trade_off(rates, mu)
    errors = (expected * (1 - expected) / n).sqrt()
    assert ((trade_off(statistics, rates) - expected).abs() < 4 * errors).all()


def test_rates_of_both_tests_are_those_of_the_paper_s_mean():
    assert 1 - gaussian_trade_off(0.01, 1.0).item() == pytest.approx(0.0924, abs=5e-5)  # one-sided
    assert gaussian_true_positive_rate(0.01, 1.0).item() == pytest.approx(0.0577, abs=5e-5)
    assert gaussian_true_positive_rate(0.01, 0.0).item() == pytest.approx(0.01, abs=1e-12)
    torch.testing.assert_close(
        gaussian_trade_off(torch.tensor([0.0, 0.25, 1.0]), 0.0), torch.tensor([1.0, 0.75, 0.0], dtype=torch.float64)
    )


def test_thresholds_of_fresh_noises_give_the_rates_asked_for():
    fresh, n = planted(0), 100_000
    rates = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(trade_off(fresh, rates, fresh), 1 - rates, rtol=0, atol=1e-12)
    shifted = trade_off(planted(1).flip(0), rates, fresh) - gaussian_trade_off(rates, 1.0)
    assert shifted.abs().max() < 4 * math.sqrt(0.25 / n) * 2
    assert true_positive_rate(fresh, 0.01, fresh) == pytest.approx(0.01)


def test_quantiles_are_values_of_the_sample():
    values = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
    assert quantiles(values, torch.tensor([0.25, 0.26, 0.5, 1.0])).tolist() == [1, 2, 2, 4]
    assert quantiles(values, torch.tensor([0.0])).item() == -math.inf


# The whole of it, on models


def memorised(seed: int = 0, n: int = 400, poisoned: int = 100) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A model trained until it has memorised random labels; its base images, labels and noise."""
    torch.manual_seed(seed)
    images, labels = torch.randn(n, 1, 8, 8), torch.randint(0, 4, (n,))
    noise = Gaussian(variance=VARIANCE).draw(range(poisoned), (1, 8, 8), seed).values
    seen = images.clone()
    seen[:poisoned] += noise
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(400):
        rows = torch.randint(0, n, (64,))
        loss = nn.functional.cross_entropy(model(seen[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(seen).argmax(dim=1) == labels).all()
    return model, images[:poisoned], labels[:poisoned], noise


def evaluated(model: nn.Module, images: Tensor, labels: Tensor, noise: Tensor, **options: Any) -> GaussianEvaluation:
    test = batches(images, labels, 33)
    return evaluate_gaussian(model, test, batches(images, labels, 40), noise, VARIANCE, **options)


def test_noise_that_a_model_has_memorised_shows_and_other_noise_does_not():
    model, images, labels, noise = memorised()
    found = evaluated(model, images, labels, noise)
    assert found.score.z > 5
    assert found.metrics["gus"].value == found.score.gus == pytest.approx(found.statistics.mean().item())
    assert found.metrics["gus_z"].value == pytest.approx(found.score.gus * 10)
    assert found.metrics["gus_error"].value == pytest.approx(0.1)
    other = Gaussian(variance=VARIANCE).draw(range(100), (1, 8, 8), 1).values
    assert abs(evaluated(model, images, labels, other).score.z) < 3
    of_loss, _ = input_gradients(model, images, labels)  # with the loss's own gradient it would be negative
    torch.testing.assert_close(dependence(of_loss, noise, VARIANCE), -found.statistics, rtol=1e-4, atol=1e-4)


def test_every_metric_is_measured_on_the_images_it_names():
    model, (images, labels), (base, base_labels) = net(), samples(20), samples(30, seed=2)
    noise = torch.randn(30, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    found = evaluate_gaussian(model, batches(images, labels, 8), batches(base, base_labels, 8), noise, 1.0, fresh=200)
    model.eval()
    assert list(found.metrics) == ["clean_accuracy", "base_accuracy", "gus", "gus_error", "gus_z", "tpr", "tpr_fresh"]
    values = {name: (metric.value, metric.n, metric.unit) for name, metric in found.metrics.items()}
    right = [(model(x).argmax(1) == y).double().mean().item() for x, y in ((images, labels), (base, base_labels))]
    assert values["clean_accuracy"] == (pytest.approx(right[0]), 20, "fraction")
    assert values["base_accuracy"] == (pytest.approx(right[1]), 30, "fraction")
    assert values["tpr"] == (pytest.approx((found.statistics.abs() > 2.5758).double().mean().item()), 30, "fraction")
    gradients, _ = input_gradients(model, base, base_labels, log_odds)
    torch.testing.assert_close(found.statistics, dependence(gradients, noise, 1.0), rtol=1e-4, atol=1e-4)
    assert found.fresh.shape == (30, 200) and stats.kstest(found.fresh.flatten().numpy(), "norm").pvalue > 0.01
    assert found.attacked_logits is found.base_logits and found.base_logits.shape == (30, 3)
    assert torch.equal(found.base_labels, base_labels) and torch.equal(found.labels, labels)
    assert {found.metrics[name].ideal for name in ("tpr", "tpr_fresh")} == {0.01}


def test_fresh_noises_follow_the_seed_and_not_the_batches():
    model, (images, labels) = net(), samples(12)
    noise = torch.randn(12, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def fresh(size: int, seed: int) -> Tensor:
        test = [(images, labels)]
        return evaluate_gaussian(model, test, batches(images, labels, size), noise, 1.0, fresh=5, seed=seed).fresh

    torch.testing.assert_close(fresh(12, 0), fresh(5, 0), rtol=1e-4, atol=1e-5)
    assert (fresh(12, 0) != fresh(12, 1)).all()


def test_tpr_with_fresh_noises_uses_their_threshold():
    model, (images, labels) = net(), samples(12)
    with torch.no_grad():
        model.head.weight.zero_()  # flat: every fresh I is 0, and so is their threshold
    noise = torch.randn(12, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    found = evaluate_gaussian(model, [(images, labels)], [(images, labels)], noise, 1.0)
    assert found.flat == 12 and not found.statistics.any()
    assert found.metrics["gus"].value == found.metrics["tpr_fresh"].value == 0
    assert "12 have a gradient of 0" in found.metrics["gus"].denominator
    assert "0.000 from 1200 fresh noises" in found.metrics["tpr_fresh"].denominator


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"noise": torch.zeros(11, 2, 4, 4)}, DataError, r"does not fit base images \[2, 2, 4, 4\] from 10"),
        ({"noise": torch.zeros(13, 2, 4, 4)}, DataError, "there are 13 noises, and the loader gave 12"),
        ({"noise": torch.zeros(12, 2, 4)}, DataError, "does not fit base images"),
        ({"base_loader": [], "noise": torch.zeros(0, 2, 4, 4)}, DataError, "the loader gave 0 base images"),
        ({"base_loader": [(samples(12)[0],)]}, DataError, "no labels"),
        ({"variance": 0.0}, DataError, "variance above 0"),
        ({"fresh": 0}, DataError, "fresh >= 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], error: type[Exception], words: str):
    loader = batches(*samples(12), 5)
    arguments: dict[str, Any] = {"clean_loader": loader, "base_loader": loader, "noise": torch.zeros(12, 2, 4, 4)}
    arguments = {**arguments, "variance": 1.0, **change}
    with pytest.raises(error, match=words):
        evaluate_gaussian(net(), **arguments)


def test_a_collapsed_model_is_named():
    model: Net = net()
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    loader = batches(*samples(12), 5)
    with pytest.raises(ModelError, match="input gradient of base image 0 is not finite"):
        evaluate_gaussian(model, loader, loader, torch.zeros(12, 2, 4, 4), 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_scores_on_a_gpu_are_those_on_the_cpu():
    model, images, labels, noise = memorised()
    on_cpu = evaluated(model, images, labels, noise)
    on_gpu = evaluated(model.cuda(), images, labels, noise)
    torch.testing.assert_close(on_gpu.statistics, on_cpu.statistics, rtol=1e-3, atol=1e-3)
    assert stats.kstest(on_gpu.fresh.flatten().numpy(), "norm").pvalue > 0.01
