"""Poison varies as samples of several classes do, a natural subclass as samples of one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from potion_fast.detection.class_spread import ClassDirections, class_spread

CLASSES, WIDTH = 10, 32


def every_other(labels: Tensor) -> Tensor:
    """Half of each class's samples, bool [M]."""
    return torch.arange(len(labels))[labels.argsort(stable=True).argsort()] % 2 == 1


class Layer:
    """Outputs of ten classes, with one covariance about their means."""

    def __init__(self, seed: int = 0, apart: float = 1.5) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.means = apart * self.normal(CLASSES, WIDTH)
        self.covariance = self.normal(WIDTH, WIDTH) / WIDTH**0.5 + torch.eye(WIDTH)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def of(self, labels: Tensor) -> Tensor:
        """Outputs of samples of these classes."""
        return self.means[labels] + self.normal(len(labels), WIDTH) @ self.covariance

    def any_class(self, count: int) -> Tensor:
        return torch.randint(CLASSES, (count,), generator=self.generator)

    def directions(self, per_class: int = 100) -> ClassDirections:
        labels = torch.arange(CLASSES).repeat_interleave(per_class)
        found = ClassDirections.of(self.of(labels), labels, every_other(labels))
        assert found is not None
        return found


def test_poison_of_all_classes_has_their_spread_and_a_subclass_none() -> None:
    shares = {"poison": [], "subclass": [], "half": []}
    for seed in range(5):
        layer = Layer(seed)
        directions = layer.directions()
        others = layer.of(torch.zeros(200, dtype=torch.int64))
        shift = 5 * layer.normal(WIDTH)
        poison = layer.of(layer.any_class(200)) + shift
        subclass = layer.of(torch.zeros(200, dtype=torch.int64)) + shift
        for name, group in (("poison", poison), ("subclass", subclass)):
            shares[name].append(class_spread([(directions, group, others)]))
        shares["half"].append(class_spread([(directions, torch.cat([poison[:100], subclass[:100]]), others)]))
    mean = {name: sum(found) / len(found) for name, found in shares.items()}
    assert mean["poison"] == pytest.approx(1, abs=0.15)
    assert mean["subclass"] == pytest.approx(0, abs=0.1)
    assert 0.3 < mean["half"] < 0.9


def test_less_contrast_changes_nothing() -> None:
    layer = Layer()
    directions, others = layer.directions(), layer.of(torch.zeros(200, dtype=torch.int64))
    poison = layer.of(layer.any_class(300))
    faint = class_spread([(directions, 0.5 * poison, others)])
    assert faint == pytest.approx(class_spread([(directions, poison, others)]), rel=1e-6)


def test_the_powers_are_those_of_samples_that_the_directions_were_not_fitted_to() -> None:
    layer = Layer(apart=0.0)  # classes that do not differ
    labels = torch.arange(CLASSES).repeat_interleave(20)
    outputs = layer.of(labels)
    directions = ClassDirections.of(outputs, labels, every_other(labels))
    assert directions is not None
    places = (outputs[~every_other(labels)].double() - directions.mean) @ directions.basis
    seen = torch.stack([places[i * 10 : (i + 1) * 10, 0].mean() for i in range(CLASSES)]).var()
    assert seen > 0.4 and directions.powers[0] < 0.1


def test_a_layer_that_tells_more_counts_more() -> None:
    clear, blurred = Layer(0, apart=2.0), Layer(1, apart=0.1)
    labels, zeros = clear.any_class(300), torch.zeros(300, dtype=torch.int64)
    parts = [
        (clear.directions(), clear.of(labels), clear.of(zeros)),
        (blurred.directions(), blurred.of(zeros), blurred.of(zeros)),  # which says that it is one class
    ]
    assert class_spread(parts) == pytest.approx(class_spread(parts[:1]), abs=0.02)


def test_outputs_that_are_constant_in_some_dimensions_are_no_harm() -> None:
    layer = Layer()
    labels = torch.arange(CLASSES).repeat_interleave(60)
    outputs = torch.cat([layer.of(labels), torch.full((600, 5), 3.0)], 1)
    directions = ClassDirections.of(outputs, labels, every_other(labels))
    assert directions is not None and directions.basis.isfinite().all()
    assert directions.variances(outputs).isfinite().all()


@pytest.mark.parametrize(("width", "classes"), [(1, 10), (16, 1)])
def test_where_nothing_can_be_told_there_are_no_directions(width: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % classes
    assert ClassDirections.of(torch.randn(200, width, generator=generator), labels, every_other(labels)) is None


def test_classes_that_do_not_differ_tell_nothing() -> None:
    directions = Layer().directions()
    silent = ClassDirections(directions.mean, directions.basis, torch.zeros_like(directions.powers))
    group = torch.randn(50, WIDTH)
    assert math.isnan(class_spread([(silent, group, group)]))
    assert math.isnan(class_spread([]))


def test_labels_need_not_be_in_order() -> None:
    layer = Layer()
    labels = torch.arange(CLASSES).repeat_interleave(40)
    outputs = layer.of(labels)
    mixed = torch.arange(CLASSES).repeat(40)  # each class's samples in their order
    order = mixed.argsort(stable=True).argsort()
    one, other = (
        ClassDirections.of(outputs, labels, every_other(labels)),
        ClassDirections.of(outputs[order], labels[order], every_other(labels)[order]),
    )
    assert one is not None and other is not None
    assert torch.allclose(one.powers, other.powers)
