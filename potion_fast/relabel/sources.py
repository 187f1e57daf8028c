"""Sources of labels for the same suspects, each made ready when it is first asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import DataError
from ..utils.asked_samples import Asked, Samples, best_other
from ..utils.layer_outputs import layer_outputs, layers_of
from . import pattern, probe, views

ONE_CLASS = 0.7  # share of suspects with the same one label by two sources; of many classes 0.16 to 0.41 (four runs)
FEWEST_OF_ONE = 8  # suspects that such a share is taken of
FIT, FEWEST_FIT, MOST_FIT = 10, 512, 20_000  # one of so many samples is read for means, spreads and probes


def samples_to_fit(samples: int) -> int:
    """Clean samples that means, spreads and probes are taken from, at most, of a training set of so many."""
    return min(max(samples // FIT, FEWEST_FIT), MOST_FIT)


@dataclass(frozen=True)
class Proposal:
    """What a source says of K samples.

    Attributes:
        labels: int64 [K]; the given label where that is kept.
        kept: bool [K], the source would leave the sample the label that it bears.
        others: int64 [K], its best other label.
    """

    labels: Tensor
    kept: Tensor
    others: Tensor

    @classmethod
    def of(cls, others: Tensor, given: Tensor, kept: Tensor | None = None) -> Proposal:
        """The proposal whose labels are `others`, and `given` where that is kept."""
        kept = torch.zeros_like(given, dtype=torch.bool) if kept is None else kept
        return cls(torch.where(kept, given, others), kept, others)

    def changed(self) -> Proposal:
        """The same with another label for every sample."""
        return Proposal(self.others, torch.zeros_like(self.kept), self.others)


class Sources:
    """The sources that need the model and the training data.

    Args:
        asked: The model.
        suspects: Those that the sources are fitted to, with the labels that they bear.
        clean: Samples that are no suspects, with their labels.
        classes: C.
        second: int64 [N], the best other label of each sample of the training set, where that is known.
    """

    def __init__(
        self, asked: Asked, suspects: Samples, clean: Samples, classes: int, second: Tensor | None = None
    ) -> None:
        self.asked, self.suspects, self.clean, self.classes, self.second = asked, suspects, clean, classes, second
        self.reasons: dict[str, str | None] = {}  # why sources are unavailable
        self.seen: dict[int, views.Views] = {}  # views of samples of the training set

    def unavailable(self, source: str) -> str | None:
        """Why a source cannot be asked here; None where it can."""
        if source not in self.reasons:
            self.reasons[source] = self._reason(source)
        return self.reasons[source]

    def _reason(self, source: str) -> str | None:
        try:
            if source == "views":
                return views.unavailable(self.asked, next(self.suspects.batches())[0])
            if source == "pattern" and not self.patterns:
                return f"no label is borne by {pattern.FEWEST} suspects, and a pattern is taken from so many"
            if source == "probe" and not self.layers:
                return "no layer of the model gives outputs with places or tokens before its last"
        except DataError as error:
            return str(error)
        return None

    def __call__(self, source: str, samples: Samples) -> Proposal:
        """What a source says of samples; whether labels that it keeps are believed is the caller's choice.

        Raises:
            DataError: The source is not available for such inputs.
        """
        given = samples.labels
        if source == "views":
            seen = self.views_of(samples)
            return Proposal.of(seen.labels, given, ~seen.broken)
        if source == "pattern":
            log_p = pattern.log_p_without(self.asked, samples, self.patterns)
            return Proposal.of(best_other(log_p, given), given, log_p.argmax(1) == given)
        if source == "probe":
            return self.by_probe(samples)
        if self.second is not None and samples.indices is not None:
            return Proposal.of(self.second[samples.indices], given)
        log_p = torch.cat([self.asked.log_p(inputs) for inputs, _ in samples.batches()])
        return Proposal.of(best_other(log_p, given), given)

    def views_of(self, samples: Samples) -> views.Views:
        """Views of samples; those of the training set are made once."""
        if samples.indices is None:
            return views.views_of(self.asked, samples, self.mean)
        indices = samples.indices.tolist()
        new = torch.tensor([place for place, index in enumerate(indices) if index not in self.seen], dtype=torch.long)
        if len(new):
            made = views.views_of(self.asked, samples.chosen(new), self.mean)
            self.seen |= {indices[place]: made.chosen(torch.tensor([row])) for row, place in enumerate(new.tolist())}
        return views.Views.joined([self.seen[index] for index in indices])

    def one_class(self, samples: Samples) -> bool:
        """Whether the suspects of each label come from one class only, as where a trigger was put on stop signs alone.

        What they have in common is then that class, too, so that pattern and probe would take it along. Of one class
        are those whose second best label is mostly the same one, and the views' label as well.

        Labels that few of the suspects bear tell nothing, nor does anything where there are two labels. Where there are
        no views, the second best alone tells.

        Args:
            samples: Suspects.
        """
        labels, counts = samples.labels.unique(return_counts=True)
        common = torch.isin(samples.labels, labels[counts >= FEWEST_OF_ONE])
        samples = samples.chosen(common.nonzero().flatten())
        if len(torch.cat([labels, self.clean.labels]).unique()) < 3 or not len(samples):
            return False
        names = [name for name in ("second-best", "views") if self.unavailable(name) is None]
        said = [self(name, samples).others for name in names]
        agreed = 0
        for label in samples.labels.unique():
            own = samples.labels == label
            votes = torch.stack([part[own].bincount(minlength=self.classes) for part in said])
            agreed += int(votes.min(0).values.max())
        return agreed >= ONE_CLASS * len(samples)

    def natural(self, given: Tensor) -> float:
        """The share of clean samples that bear a label, in the mean over labels int64 [K]."""
        shares = torch.bincount(self.clean.labels, minlength=self.classes).double() / len(self.clean)
        return shares[given].mean().item()

    @cached_property
    def mean(self) -> Tensor | None:
        """Mean colour of the clean samples; None for what is no image."""
        return views.mean_colour(inputs for inputs, _ in self.clean.batches())

    @cached_property
    def patterns(self) -> dict[int, pattern.Pattern]:
        """By the label that the suspects bear."""
        clean = pattern.moments((inputs, torch.zeros_like(labels)) for inputs, labels in self.clean.batches())[0]
        return pattern.patterns_of(self.suspects, clean)

    @cached_property
    def layers(self) -> list[str]:
        """That a probe may read."""
        return layers_of(self.asked, self.clean)

    @property
    def probes(self) -> dict[str, probe.Probe]:
        """A probe of each layer, fitted to the clean samples."""
        return self._of_layers[0]

    @property
    def early_outputs(self) -> dict[str, Tensor]:
        """Outputs of the first half of the layers for the clean samples, float32 [K, D] of each."""
        return self._of_layers[1]

    @cached_property
    def _of_layers(self) -> tuple[dict[str, probe.Probe], dict[str, Tensor]]:
        outputs = layer_outputs(self.asked, self.clean, self.layers)
        fitted = {layer: probe.Probe.fitted(part, self.clean.labels, self.classes) for layer, part in outputs.items()}
        return fitted, {layer: outputs[layer] for layer in self.layers[: (len(self.layers) + 1) // 2]}

    @cached_property
    def layer(self) -> str:
        """Of the probe that is taken: the one with the best accuracy on samples left out, unless `choose_layer`."""
        return max(self.layers, key=lambda layer: self.probes[layer].accuracy)

    def choose_layer(self, simulated: Samples, right: Tensor) -> None:
        """Take the layer whose probe gives most samples of simulated poison their right label, int64 [M]."""
        found = {layer: self._by(layer, features, simulated.labels) for layer, features in self._pooled(simulated)}
        shares = {layer: (labels == right).double().mean().item() for layer, labels in found.items()}
        self.__dict__["layer"] = max(self.layers, key=lambda layer: shares[layer])

    def by_probe(self, samples: Samples) -> Proposal:
        """What the probe of the chosen layer says of samples that share their labels' shift."""
        features = layer_outputs(self.asked, samples, [self.layer])[self.layer]
        return Proposal.of(self._by(self.layer, features, samples.labels), samples.labels)

    def _by(self, layer: str, features: Tensor, given: Tensor) -> Tensor:
        return probe.labels_by_probe(self.probes[layer], features, given)

    def _pooled(self, samples: Samples) -> list[tuple[str, Tensor]]:
        return list(layer_outputs(self.asked, samples, self.layers).items())
