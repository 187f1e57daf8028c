"""Poison varies as samples of all classes do, a natural subclass as the others of its label."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from potion_fast.detection.class_spread import ClassDirections, LayerOutputs, class_spread

CLASSES, WIDTH = 10, 32


class Layer:
    """Outputs of ten classes; class 0 is twice as wide as the others along the first four dimensions."""

    def __init__(self, seed: int = 0, apart: float = 1.5) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.means = apart * self.normal(CLASSES, WIDTH)
        self.covariance = self.normal(WIDTH, WIDTH) / WIDTH**0.5 + torch.eye(WIDTH)
        self.wide = torch.ones(WIDTH)
        self.wide[:4] = 2

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def of(self, labels: Tensor) -> Tensor:
        """Outputs of samples of these classes."""
        deviations = self.normal(len(labels), WIDTH) @ self.covariance
        return self.means[labels] + torch.where((labels == 0)[:, None], self.wide, 1.0) * deviations

    def any_class(self, count: int) -> Tensor:
        return torch.randint(CLASSES, (count,), generator=self.generator)

    def directions(self, per_class: int = 100) -> ClassDirections:
        labels = torch.arange(CLASSES).repeat_interleave(per_class)
        found = ClassDirections.of(self.of(labels), labels)
        assert found is not None
        return found

    def read(self, directions: ClassDirections, group: Tensor) -> LayerOutputs:
        own, everything = torch.zeros(300, dtype=torch.int64), self.any_class(600)
        return LayerOutputs(directions, group, self.of(own), self.of(everything))


def test_poison_of_all_classes_varies_as_they_do_and_a_subclass_does_not() -> None:
    spreads: dict[str, list[float]] = {"poison": [], "subclass": [], "half": []}
    for seed in range(5):
        layer = Layer(seed)
        directions, shift = layer.directions(), 5 * layer.normal(WIDTH)
        poison = layer.of(layer.any_class(300)) + shift
        subclass = layer.of(torch.zeros(300, dtype=torch.int64)) + shift
        groups = {"poison": poison, "subclass": subclass, "half": torch.cat([poison[:150], subclass[:150]])}
        for name, group in groups.items():
            spreads[name].append(class_spread([layer.read(directions, group)]))
    mean = {name: sum(found) / len(found) for name, found in spreads.items()}
    assert mean["poison"] == pytest.approx(1, abs=0.15)
    assert mean["subclass"] == pytest.approx(0, abs=0.1)
    assert 0.3 < mean["half"] < 0.8


def test_less_contrast_changes_nothing() -> None:
    layer = Layer()
    read = layer.read(layer.directions(), layer.of(layer.any_class(300)))
    faint = read._replace(group=0.5 * read.group)
    assert class_spread([faint]) == pytest.approx(class_spread([read]), rel=1e-6)


def test_a_layer_that_tells_more_counts_more() -> None:
    clear, blurred = Layer(0, apart=2.0), Layer(1, apart=0.1)
    zeros = torch.zeros(300, dtype=torch.int64)
    telling = clear.read(clear.directions(), clear.of(clear.any_class(300)))
    silent = blurred.read(blurred.directions(), blurred.of(zeros))  # which says that it is one class
    assert class_spread([telling, silent]) == pytest.approx(class_spread([telling]), abs=0.02)


def test_a_few_samples_of_a_label_in_many_directions() -> None:
    """A hundred classes, eight samples of the label, sixteen of the group: chance must not look like poison."""
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(100, 120, generator=generator)

    def of(labels: Tensor) -> Tensor:
        return means[labels] + torch.randn(len(labels), 120, generator=generator)

    labels = torch.arange(100).repeat_interleave(12)
    directions = ClassDirections.of(of(labels), labels)
    assert directions is not None and directions.count > 50
    spreads: dict[str, list[float]] = {"natural": [], "poison": []}
    for label in range(20):
        own, everything = torch.full((8,), label), torch.randint(100, (800,), generator=generator)
        groups = {"natural": torch.full((16,), label), "poison": torch.randint(100, (16,), generator=generator)}
        for name, group in groups.items():
            spreads[name].append(class_spread([LayerOutputs(directions, of(group), of(own), of(everything))]))
    assert max(spreads["natural"]) < 0.1
    assert min(spreads["poison"]) > 0.6


def test_the_directions_are_those_in_which_the_classes_differ() -> None:
    means = torch.zeros(CLASSES, WIDTH)
    means[:, 7] = torch.arange(CLASSES)
    labels = torch.arange(CLASSES).repeat_interleave(60)
    outputs = means[labels] + 0.1 * torch.randn(600, WIDTH, generator=torch.Generator().manual_seed(0))
    directions = ClassDirections.of(outputs, labels)
    assert directions is not None and directions.count == CLASSES - 1
    first = directions.basis[:, 0].abs()
    assert first.argmax() == 7 and first[7] > 10 * first.sort().values[-2]


def test_outputs_that_are_constant_in_some_dimensions_are_no_harm() -> None:
    layer = Layer()
    labels = torch.arange(CLASSES).repeat_interleave(60)
    outputs = torch.cat([layer.of(labels), torch.full((600, 5), 3.0)], 1)
    directions = ClassDirections.of(outputs, labels)
    assert directions is not None and directions.basis.isfinite().all()
    assert directions.covariance(outputs).isfinite().all()


@pytest.mark.parametrize(("width", "classes"), [(1, 10), (16, 1)])
def test_where_nothing_can_be_told_there_are_no_directions(width: int, classes: int) -> None:
    outputs = torch.randn(200, width, generator=torch.Generator().manual_seed(0))
    assert ClassDirections.of(outputs, torch.arange(200) % classes) is None


def test_without_a_layer_nothing_is_told() -> None:
    assert math.isnan(class_spread([]))


def test_labels_need_not_be_in_order() -> None:
    layer = Layer()
    labels = torch.arange(CLASSES).repeat_interleave(40)
    outputs, mixed = layer.of(labels), torch.randperm(400, generator=layer.generator)
    one, other = ClassDirections.of(outputs, labels), ClassDirections.of(outputs[mixed], labels[mixed])
    assert one is not None and other is not None
    assert torch.allclose(one.covariance(outputs), other.covariance(outputs))
