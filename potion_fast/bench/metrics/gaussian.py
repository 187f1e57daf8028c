"""Scores of a model trained on Gaussian poison: how far the noise shows in its input gradients.

Pawelczyk et al., *Machine Unlearning Fails to Remove Data Poisoning Attacks*, 2024, sections 3.3 and C.1.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import DataError, ModelError
from ...utils.batches import inputs_and_labels
from ...utils.predict import accuracy, predict
from ...utils.progress import bar
from .detection import FPR, normal_quantile, threshold, true_positive_rate
from .input_gradients import input_gradients, log_odds
from .scores import Metric

CHUNK = 2**22  # numbers of fresh noise that are drawn at once
SIGMAS = "standard deviations"


@dataclass(frozen=True)
class GaussianScore:
    """The Gaussian Unlearning Score of P poisoned samples.

    Attributes:
        gus: mean of I, which is N(0, 1) for noise that the model never saw; above 0 where it remembers the noise.
        error: standard error of such a mean, 1 / sqrt(P).
        z: gus / error.
        sample_error: standard error as the sample has it; of a single sample `error`.
        interval: the central 95 % by it.
    """

    gus: float
    error: float
    z: float
    sample_error: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class GaussianEvaluation:
    """Outputs on the test images and on the base images of S_m, and what the latter's gradients say of the noise.

    Attributes:
        clean_logits, labels: float32 [N, C] and int64 [N], of the test images.
        base_logits, base_labels: float32 [P, C] and int64 [P], of S_m before the noise was added.
        statistics: float64 [P], I of each poisoned sample.
        fresh: float32 [P, F], I of F noises for each of them that no model has seen.
        flat: how many of them have a gradient of 0, in which no noise can show; I is 0 there.
        score: of all P.
        metrics: "clean_accuracy", "base_accuracy", "gus", "gus_error", "gus_z", "tpr" and "tpr_fresh".
    """

    clean_logits: Tensor
    labels: Tensor
    base_logits: Tensor
    base_labels: Tensor
    statistics: Tensor
    fresh: Tensor
    flat: int
    score: GaussianScore
    metrics: dict[str, Metric]

    @property
    def attacked_logits(self) -> Tensor:
        """Of the images that the attack is judged by."""
        return self.base_logits


def dependence(
    gradients: Tensor,  # [B, ...]
    noise: Tensor,  # [B, ...]
    variance: float,
) -> Tensor:  # [B] float64
    """The statistic I = <g, xi> / (eps |g|), eps^2 the variance (algorithm 3), in float64; 0 where g is 0.

    Algorithm 4 divides by eps a second time, which is a slip. Where xi is independent of g, I is N(0, 1) exactly;
    where g = xi it is |xi| / eps, about sqrt(d) for d pixels.
    """
    g, xi = (values.flatten(1).double() for values in (gradients, noise))
    length = g.norm(dim=1)  # [B]
    return torch.where(length == 0, 0.0, (g * xi).sum(dim=1) / (length * math.sqrt(variance)))


def fresh_dependence(
    gradients: Tensor,  # [B, ...]
    count: int,
    generator: torch.Generator,
) -> Tensor:  # [B, count] float32
    """The statistic I of `count` noises for each gradient, drawn on the gradients' device; their variance cancels."""
    g = gradients.detach().flatten(1).double()
    length = g.norm(dim=1, keepdim=True)  # [B, 1]
    units = torch.where(length == 0, 0.0, g / length).float()  # [B, d]
    result = torch.empty(len(units), count, dtype=torch.float32, device=units.device)
    at_once = max(1, CHUNK // max(1, units.shape[1]))  # noises
    for unit, row in zip(units, result, strict=True):
        for part in row.split(at_once):
            noise = torch.randn(len(part), len(unit), generator=generator, dtype=torch.float32, device=units.device)
            torch.mv(noise, unit, out=part)
    return result


def gaussian_unlearning_score(
    statistics: Tensor,  # [P]
) -> GaussianScore:
    """The GUS, the mean of I, with its errors (algorithm 3).

    Raises:
        DataError: no sample.
    """
    count = len(statistics)
    if not count:
        raise DataError("the Gaussian Unlearning Score is a mean over poisoned samples; there is none")
    gus, error = statistics.double().mean().item(), 1 / math.sqrt(count)
    sample_error = statistics.double().std().item() * error if count > 1 else error
    half = normal_quantile(0.975).item() * sample_error
    return GaussianScore(gus, error, gus / error, sample_error, (gus - half, gus + half))


def evaluate_gaussian(
    model: nn.Module,
    clean_loader: Iterable[tuple[Tensor, Tensor]],
    base_loader: Iterable[tuple[Tensor, Tensor]],
    noise: Tensor,  # [P, C, H, W]
    variance: float,
    *,
    fresh: int = 100,
    seed: int = 0,
    progress: bool = False,
    sample: str = "image",
) -> GaussianEvaluation:
    """Run the model over the test images, and forth and back over the base images of S_m, all in evaluation mode.

    The gradient g is that of the log odds of the image's label, which is the loss's divided by -(1 - p): its direction
    does not get lost in float32 where p is almost 1, and I depends on no length. Its sign makes the score positive, as
    the paper reports it: the loss falls towards what was trained on, so with its own gradient, as printed, I is
    negative where noise is remembered.

    Args:
        model: that is evaluated.
        clean_loader: test images and labels, in a fixed order.
        base_loader: the training images of S_m without noise and augmentation, in the noise's order, with labels.
        noise: what they were trained with; it may be mapped from a file, and is read a batch at a time.
        variance: that it was drawn with.
        fresh: noises drawn for each image; P * fresh of them tell the threshold of "tpr_fresh".
        seed: of their generator, which is that of the model's device.
        progress: show progress bars.
        sample: what the denominators call a sample.

    Returns:
        The outputs, the statistics, and the metrics.

    Raises:
        DataError: a number or shape of noises other than the images', or a variance or `fresh` out of range.
        ModelError: a gradient is not finite, or the model gives something else than logits [B, C].
    """
    if not 0 < variance < math.inf or fresh < 1:
        raise DataError(f"the score needs a variance above 0 and fresh >= 1; got {variance} and {fresh}")
    clean_logits, labels = predict(model, clean_loader, progress)
    measured = zip(*_measured(model, base_loader, noise, variance, fresh, seed, progress), strict=True)
    base_logits, base_labels, statistics, drawn, flat = (torch.cat(parts) for parts in measured)
    score, n, p = gaussian_unlearning_score(statistics), len(labels), len(statistics)
    base_accuracy, of_base = accuracy(base_logits, base_labels), f"{p} poisoned training {sample}s, without their noise"
    metrics = [
        Metric("clean_accuracy", accuracy(clean_logits, labels), "fraction", n, 1.0, f"{n} test {sample}s"),
        Metric("base_accuracy", base_accuracy, "fraction", p, 1.0, of_base),
        *_of_noise(score, statistics, drawn, int(flat.sum())),
    ]
    by_name = {metric.name: metric for metric in metrics}
    return GaussianEvaluation(
        clean_logits, labels, base_logits, base_labels, statistics, drawn, int(flat.sum()), score, by_name
    )


def _measured(
    model: nn.Module,
    base_loader: Iterable[object],
    noise: Tensor,  # [P, C, H, W]
    variance: float,
    fresh: int,
    seed: int,
    progress: bool,
) -> Iterator[tuple[Tensor, ...]]:  # [B, C], [B], [B], [B, fresh], [B] bool
    """By batch, on the CPU: logits, labels, I, I of fresh noises, whether the gradient is 0."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    seen = 0
    for batch in bar(base_loader, label="input gradients", unit="batch", shown=progress):
        inputs, labels = inputs_and_labels(batch)
        if labels is None:
            raise DataError("the loader of base images gives no labels to take gradients with")
        part = noise[seen : seen + len(inputs)]
        if part.shape != inputs.shape:
            raise DataError(f"noise {list(noise.shape)} does not fit base images {list(inputs.shape)} from {seen}")
        gradients, logits = input_gradients(model, inputs.to(device), labels.to(device), log_odds)
        _check_finite(gradients, seen)
        of_own = dependence(gradients, part.to(device), variance)
        of_fresh = fresh_dependence(gradients, fresh, generator)
        flat = (gradients.flatten(1) == 0).all(dim=1)
        yield logits.float().cpu(), labels.cpu(), of_own.cpu(), of_fresh.cpu(), flat.cpu()
        seen += len(inputs)
    if seen != len(noise) or not seen:
        raise DataError(f"there are {len(noise)} noises, and the loader gave {seen} base images")


def _of_noise(score: GaussianScore, statistics: Tensor, fresh: Tensor, flat: int) -> list[Metric]:
    count = len(statistics)
    samples = f"{count} poisoned samples" + (f" ({flat} have a gradient of 0, which counts as I = 0)" if flat else "")
    tau, tau_fresh = threshold(), threshold(fresh=fresh)
    detected = f"{samples}; FPR {FPR}, |I| > "
    return [
        Metric("gus", score.gus, SIGMAS, count, 0.0, samples),
        Metric("gus_error", score.error, SIGMAS, count, score.error, "1 / sqrt(P) for independent noise"),
        Metric("gus_z", score.z, SIGMAS, count, 0.0, f"the standard error {score.error:.4f}"),
        Metric("tpr", true_positive_rate(statistics), "fraction", count, FPR, f"{detected}{tau:.3f}"),
        Metric(
            "tpr_fresh",
            true_positive_rate(statistics, fresh=fresh),
            "fraction",
            count,
            FPR,
            f"{detected}{tau_fresh:.3f} from {fresh.numel()} fresh noises",
        ),
    ]


def _check_finite(gradients: Tensor, first: int) -> None:
    broken = ~gradients.flatten(1).isfinite().all(dim=1)
    if broken.any():
        where = first + int(broken.nonzero()[0])
        raise ModelError(f"the input gradient of base image {where} is not finite: the model has collapsed")
