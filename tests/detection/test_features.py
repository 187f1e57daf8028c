"""Features of the training data: which layer's input they are, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from potion_fast.detection.features import LOGITS, features_of
from potion_fast.errors import DataError, ModelError
from potion_fast.utils.training_data import TrainingData


def network(*head: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *head)


def images(labels: torch.Tensor | None = None, samples: int = 7) -> TensorDataset:
    x = torch.randn(samples, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, torch.arange(samples) % 4 if labels is None else labels)


def features(model: nn.Module, data: TensorDataset, **keywords):
    return features_of(model, TrainingData.of(data, batch_size=3), **keywords)


def test_a_linear_head_gives_its_input_and_the_logits_words() -> None:
    model = network(nn.Flatten(), nn.Linear(54, 4))
    data = images()
    given = features(model, data)
    x, labels = data.tensors
    with torch.no_grad():
        hidden = model[:3](x)
        logits = model(x)
    assert torch.allclose(given.features, hidden, atol=1e-6)
    assert torch.equal(given.labels, labels)
    assert torch.allclose(given.log_p, logits.log_softmax(1)[torch.arange(7), labels], atol=1e-6)
    assert torch.equal(given.best, logits.argmax(1))
    assert torch.equal(given.second, logits.scatter(1, labels[:, None], -torch.inf).argmax(1))
    assert (given.classes, given.layer) == (4, "3")


def test_a_compiled_model_gives_the_same_in_every_batch() -> None:
    model, data = network(nn.Flatten(), nn.Linear(54, 4)), images()
    compiled = torch.compile(network(nn.Flatten(), nn.Linear(54, 4)), backend="eager")
    given = features(compiled, data)
    assert torch.equal(given.features, features(model, data).features)
    assert given.layer == "3"


def test_a_convolution_for_a_head_gives_the_mean_over_its_places() -> None:
    model = network(nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    data = images()
    with torch.no_grad():
        hidden = model[:2](data.tensors[0]).mean((2, 3))
    assert torch.allclose(features(model, data).features, hidden, atol=1e-6)


class LastToken(nn.Module):
    """A text classifier that scores every token and takes the one that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score = nn.Embedding(9, 5), nn.Linear(5, 3, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        place = tokens[:, 0] % tokens.shape[1]
        return self.score(self.embed(tokens))[torch.arange(len(tokens)), place]


def test_a_head_over_tokens_gives_the_token_whose_logits_count() -> None:
    torch.manual_seed(0)
    model = LastToken()
    tokens = torch.randint(9, (6, 4), generator=torch.Generator().manual_seed(2))
    given = features(model, TensorDataset(tokens, torch.arange(6) % 3))
    with torch.no_grad():
        expected = model.embed(tokens)[torch.arange(6), tokens[:, 0] % 4]
    assert torch.allclose(given.features, expected)


class Shifted(nn.Module):
    """A network with parameters of its own around its layers, as a vision transformer's tokens and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((3, 1, 1), 0.5))
        self.layers = network(nn.Flatten(), nn.Linear(54, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x + self.shift)


def test_parameters_around_the_head_do_not_make_the_network_its_head() -> None:
    model, data = Shifted(), images()
    given = features(model, data)
    with torch.no_grad():
        assert torch.allclose(given.features, model.layers[:3](data.tensors[0] + 0.5), atol=1e-6)
    assert given.layer == "layers.3"


def test_a_vision_transformer_gives_the_input_of_its_head() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 4}
    model = timm.models.VisionTransformer(**sizes)
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    given = features(model, TensorDataset(x, torch.arange(5) % 4))
    with torch.no_grad():
        expected = model.eval().forward_head(model.forward_features(x), pre_logits=True)
    assert given.layer == "head"
    assert torch.allclose(given.features, expected, atol=1e-5)


class Cosine(nn.Module):
    """A head that is no linear layer: cosines between features and one direction a class, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(4, 54, generator=torch.Generator().manual_seed(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 * nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.directions))


def test_a_head_of_ones_own_gives_its_input() -> None:
    model, data = network(nn.Flatten(), Cosine()), images()
    with torch.no_grad():
        assert torch.allclose(features(model, data).features, model[:3](data.tensors[0]), atol=1e-6)


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.*is deprecated:FutureWarning", "ignore:.torch.jit.*is deprecated:DeprecationWarning"
)
def test_a_model_without_layers_that_take_hooks_gives_its_logits() -> None:
    model = torch.jit.script(network(nn.Flatten(), nn.Linear(54, 4)))
    given = features(model, images())
    assert given.layer == LOGITS
    with torch.no_grad():
        assert torch.allclose(given.features, model(images().tensors[0]), atol=1e-6)


def test_samples_that_were_asked_for_come_in_their_order() -> None:
    model = network(nn.Flatten(), nn.Linear(54, 4))
    some = torch.tensor([5, 1, 6, 2])
    assert torch.allclose(features(model, images(), indices=some).features, features(model, images()).features[some])


def test_the_model_stays_as_it_was() -> None:
    model = network(nn.BatchNorm2d(6), nn.Dropout(), nn.Flatten(), nn.Linear(54, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features(model, images())
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_less_memory_gives_the_same() -> None:
    class Small(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 1:
                raise torch.OutOfMemoryError("no")
            return self.inner(x)

    model = network(nn.Flatten(), nn.Linear(54, 4))
    assert torch.allclose(features(Small(model), images()).features, features(model, images()).features, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([[0, 1, 1, 0]] * 7), "several classes of a sample"),
        (torch.rand(7, 4), "no whole numbers, as of a regression"),
        (torch.rand(7), "no whole numbers, as of a regression"),
        (torch.zeros(7, 5, 5, dtype=torch.long), "not one class each"),
        (torch.full((7,), 4), "found 4 with 4 outputs"),
    ],
)
def test_labels_of_other_tasks_are_refused(labels: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        features(network(nn.Flatten(), nn.Linear(54, 4)), images(labels))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ([nn.Conv2d(6, 4, 1)], "give logits"),
        ([nn.Flatten(), nn.Linear(54, 1)], "one output column"),
    ],
)
def test_models_of_other_tasks_are_refused(head, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        features(network(*head), images())


def test_one_hot_labels_are_classes() -> None:
    labels = torch.nn.functional.one_hot(torch.arange(7) % 4)
    assert torch.equal(features(network(nn.Flatten(), nn.Linear(54, 4)), images(labels)).labels, torch.arange(7) % 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sample_whose_features_are_not_finite_is_named(value: float) -> None:
    data = images()
    data.tensors[0][4] = value
    with pytest.raises(ModelError, match="not finite for the sample 4"):
        features(network(nn.Flatten(), nn.Linear(54, 4)), data)
