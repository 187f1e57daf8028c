"""Importances from batches of several inputs and outputs with logits, against the loop over groups in float64."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import potion_fast as pf
from helpers.hugging_face import MODELS, TEXTS, double
from potion_fast.errors import DataError, ImportanceError, ModelError
from potion_fast.importances.fallback import Fallback

pytest.importorskip("transformers")

LABELS = torch.arange(TEXTS) % 3
BY_TORCH_FUNC = {"choice": 1, "vilt": 1}  # parameters that are looked up once for all samples, as with plain tensors


def parts(batch: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    return [{key: value[k : k + size] for key, value in batch.items()} for k in range(0, TEXTS, size)]


def looped(model: nn.Module, logits_of, group_size: int, objective: str, labels: Tensor = LABELS) -> dict[str, Tensor]:
    """Mean |g| or g² over groups: `logits_of` gives the logits of the samples of a slice."""
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    starts = range(0, TEXTS, group_size)
    for start in starts:
        part = slice(start, start + group_size)
        logits = logits_of(part)
        loss = F.cross_entropy(logits, labels[part]) if objective == "ssd" else logits.norm(dim=1).mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total += gradient.square() if objective == "ssd" else gradient.abs()
    return {name: total / len(starts) for name, total in sums.items()}


def assert_close(got: pf.Importance, want: dict[str, Tensor]):
    """To 1e-10 of each parameter's norm; a gradient that is 0 but for rounding counts for the model's norm."""
    whole = torch.stack([value.norm() for value in want.values()]).norm()
    for name, value in want.items():
        error = torch.linalg.vector_norm(got[name] - value)
        assert error <= 1e-10 * value.norm() + 1e-15 * whole, f"{name}: {error} of {value.norm()}"


@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize(("group_size", "batch"), [(1, 12), (4, 12), (4, 5), (12, 12), (12, 5), ("batch", 4)])
@pytest.mark.parametrize("kind", MODELS)
def test_dict_batches_of_transformers_equal_the_loop(kind, group_size, batch, objective):
    model, inputs = double(kind)
    loader = parts({**inputs, "labels": LABELS}, batch)
    got = pf.importance(model, loader, objective, group_size=group_size, dtype=torch.float64)
    size = batch if group_size == "batch" else group_size
    want = looped(model, lambda part: model(**{k: v[part] for k, v in inputs.items()}).logits, size, objective)
    assert_close(got, want)
    assert len(got.fallback) <= BY_TORCH_FUNC.get(kind, 0)


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_dict_batches_give_the_bits_of_the_same_model_behind_plain_tensors(kind):
    class Plain(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x).logits

    model, inputs = double(kind)
    key, values = next(iter(inputs.items()))
    got = pf.importance(model, [{key: values, "labels": LABELS}], "ssd", group_size=4)
    want = pf.importance(Plain(model), [(values, LABELS)], "ssd", group_size=4)
    assert torch.equal(got.sums, want.sums) and got.fallback == want.fallback == ()


class Mixed(nn.Module):
    """Floats and whole numbers, by place or by name; `scale` and `mode` are no tensors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.first, self.head = nn.Embedding(10, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.double()

    def forward(self, x, ids, scale=1.0, mode="sum", other=None):
        words = self.words(ids)
        mixed = self.first(x) * scale + (words.sum(1) if mode == "sum" else words.mean(1))
        return self.head(torch.tanh(mixed if other is None else mixed + other))


X = torch.randn(TEXTS, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
IDS = torch.randint(0, 10, (TEXTS, 5), generator=torch.Generator().manual_seed(3))
FORMS = {
    "tuple": ((X, IDS), {}),
    "list with constants": ((X, IDS, 0.5, "mean", None), {}),
    "names": ((), {"ids": IDS, "x": X}),
    "names with constants": ((), {"x": X, "ids": IDS, "scale": 2.0, "mode": "mean", "other": None}),
    "three": ((X, IDS, 1.0, "sum", X @ torch.ones(4, 6, dtype=torch.float64)), {}),
}


def cut(args, kwargs, part):
    take = lambda value: value[part] if isinstance(value, Tensor) else value  # noqa: E731
    return [take(value) for value in args], {key: take(value) for key, value in kwargs.items()}


@pytest.mark.parametrize("objective", ["xlf", "ssd"])
@pytest.mark.parametrize(("group_size", "batch"), [(1, 12), (4, 5), (12, 5)])
@pytest.mark.parametrize("form", FORMS)
def test_several_inputs_of_any_form_equal_the_loop(form, group_size, batch, objective):
    model, (args, kwargs) = Mixed(), FORMS[form]
    loader = []
    for start in range(0, TEXTS, batch):
        part = slice(start, start + batch)
        some, named = cut(args, kwargs, part)
        loader.append((UserDict(named) if kwargs else some, LABELS[part], "ignored"))
    got = pf.importance(model, loader, objective, group_size=group_size, dtype=torch.float64)

    def logits_of(part):
        some, named = cut(args, kwargs, part)
        return model(*some, **named)

    assert_close(got, looped(model, logits_of, group_size, objective))
    assert got.fallback == ()


def test_parameters_without_a_rule_go_through_torch_func_with_several_inputs(monkeypatch):
    class Scaled(Mixed):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.linspace(-0.5, 0.5, 64, dtype=torch.float64).view(4, 4, 4))

        def forward(self, x, ids):
            return super().forward(F.bilinear(x, x, self.gain), ids)

    model, looped_groups = Scaled(), []
    original = Fallback._by_loop
    monkeypatch.setattr(Fallback, "_by_loop", lambda *args: looped_groups.append(len(args[-1])) or original(*args))
    for group_size in (1, 4):
        for batch in (((X, IDS), LABELS), {"x": X, "ids": IDS}):
            got = pf.importance(model, [batch], group_size=group_size, dtype=torch.float64)
            assert_close(got, looped(model, lambda part: model(X[part], IDS[part]), group_size, "xlf"))
    assert got.fallback and looped_groups == [2] * 4  # the first two groups of each pass, to check torch.func
    model.register_forward_pre_hook(
        lambda module, args: float(args[0].detach().sum()) and None
    )  # torch.func refuses: a loop
    again = pf.importance(model, [((X, IDS), LABELS)], group_size=4, dtype=torch.float64)
    assert_close(again, looped(model, lambda part: model(X[part], IDS[part]), 4, "xlf"))
    assert sum(looped_groups[4:]) >= 3


def test_samples_that_mix_by_one_of_several_inputs_are_refused():
    class Centred(Mixed):
        def forward(self, x, ids, other):
            return super().forward(x, ids) + other - other.mean(0)

    other = X[:, :3]
    with pytest.raises(ImportanceError, match="depends on other samples"):
        pf.importance(Centred(), [((X, IDS, other), LABELS)], group_size=1)


def test_a_pass_over_dicts_is_resumed_and_knows_another_order(tmp_path):
    model, loader = Mixed(), parts({"x": X, "ids": IDS, "labels": LABELS}, 4)
    want = pf.importance(model, loader, "ssd", group_size=3, dtype=torch.float64)
    path = tmp_path / "pass.safetensors"

    def breaking():
        yield from loader[:2]
        raise KeyboardInterrupt

    def begin():
        with pytest.raises(KeyboardInterrupt):
            pf.importance(model, breaking(), "ssd", group_size=3, dtype=torch.float64, checkpoint=path)

    begin()
    options = {"group_size": 3, "dtype": torch.float64, "checkpoint": path, "resume": True}
    other = [{**part, "ids": part["ids"].flip(0)} for part in loader]  # the first input is the same
    with pytest.raises(DataError, match="another order"):
        pf.importance(model, other, "ssd", **options)
    got = pf.importance(model, loader, "ssd", **options)
    assert torch.equal(got.sums, want.sums) and not path.exists()


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path):
    class Half(pf.Adapter):
        def logits(self, outputs):
            return outputs / 2

    path = tmp_path / "pass.safetensors"

    def breaking():
        yield (X, IDS), LABELS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pf.importance(Mixed(), breaking(), group_size=3, checkpoint=path)
    with pytest.raises(ImportanceError, match="adapter"):
        pf.importance(Mixed(), breaking(), group_size=3, checkpoint=path, resume=True, adapter=Half())


def test_batches_of_several_inputs_are_cut_where_memory_is_short(monkeypatch):
    from potion_fast.importances.micro_batches import MicroBatches

    original, taken = MicroBatches._added, []

    def short(self, chunk):
        taken.append(len(chunk.inputs))
        return len(chunk.inputs) <= 3 and original(self, chunk)

    model = Mixed()
    want = pf.importance(model, [({"x": X, "ids": IDS}, LABELS)], "ssd", group_size=2, dtype=torch.float64)
    monkeypatch.setattr(MicroBatches, "_added", short)
    got = pf.importance(model, [({"x": X, "ids": IDS}, LABELS)], "ssd", group_size=2, dtype=torch.float64)
    assert 6 in taken and 2 in taken
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-12, atol=1e-15)


def test_a_compiled_pass_takes_several_inputs():
    model = Mixed()
    loader = [((X, IDS), LABELS)] * 5
    want = pf.importance(model, loader, ["xlf", "ssd"], group_size=4, dtype=torch.float64)
    got = pf.importance(model, loader, ["xlf", "ssd"], group_size=4, dtype=torch.float64, compiled=True)
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine.sums, other.sums, rtol=1e-10, atol=1e-14)
    named = [({"x": X, "ids": IDS}, LABELS)] * 5
    again = pf.importance(model, named, "xlf", group_size=4, dtype=torch.float64, compiled=True)
    torch.testing.assert_close(again.sums, want[0].sums, rtol=1e-10, atol=1e-14)


def test_a_compiled_pass_takes_dicts_of_transformers():
    model, inputs = double("bert")
    loader = [{**inputs, "labels": LABELS}] * 4
    want = pf.importance(model, loader, group_size=4, dtype=torch.float64)
    got = pf.importance(model, loader, group_size=4, dtype=torch.float64, compiled=True)
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-9, atol=1e-12)


def test_several_objectives_share_a_pass_over_dicts():
    model, inputs = double("bert")
    loader = parts({**inputs, "labels": LABELS}, 5)
    together = pf.importance(model, loader, ["xlf", "lf", 0.5, "ssd"], group_size=4, dtype=torch.float64)
    for objective, got in zip(["xlf", "lf", 0.5, "ssd"], together, strict=True):
        own = {"w": objective} if isinstance(objective, float) else {"objective": objective}
        alone = pf.importance(model, loader, **own, group_size=4, dtype=torch.float64)
        torch.testing.assert_close(got.sums, alone.sums, rtol=1e-9, atol=1e-13)


def test_a_callable_gets_what_the_model_gives_and_the_labels_as_they_are():
    model, inputs = double("bert")
    seen = []

    def losses(outputs, labels):
        seen.append((type(outputs).__name__, labels.dtype))
        return (outputs.logits[:, 0] - labels) ** 2

    loader = [{**inputs, "labels": LABELS.double() / 2}]
    got = pf.importance(model, loader, losses, group_size=1, dtype=torch.float64)
    assert set(seen) == {("SequenceClassifierOutput", torch.float64)} and got.samples == TEXTS


@pytest.mark.parametrize("group_size", [1, 3, 5])
def test_dicts_that_are_padded_to_the_longest_of_each_batch(group_size):
    """Batches of lengths 6, 7, 5 and 7; a group may lie in several."""
    model, inputs = double("bert")
    lengths, loader = (6, 7, 5, 7), []
    for k, length in enumerate(lengths):
        part = {key: value[3 * k : 3 * k + 3, :length].clone() for key, value in inputs.items()}
        part["attention_mask"][:, 0] = 1
        loader.append({**part, "labels": LABELS[3 * k : 3 * k + 3]})
    got = pf.importance(model, loader, "ssd", group_size=group_size, dtype=torch.float64)

    def logits_of(samples):
        rows = []
        for k in range(*samples.indices(TEXTS)):
            one = {key: value[k % 3 : k % 3 + 1] for key, value in loader[k // 3].items() if key != "labels"}
            rows.append(model(**one).logits)
        return torch.cat(rows)

    assert_close(got, looped(model, logits_of, group_size, "ssd"))


def test_a_language_model_has_a_callable_that_leaves_out_padding():
    import transformers

    config = transformers.GPT2Config(vocab_size=30, n_positions=10, n_embd=16, n_layer=1, n_head=2, eos_token_id=1)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).double().eval()
    _, inputs = double("gpt2")
    labels = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)

    def losses(outputs, labels):  # [B, T, V], [B, T] -> [B]
        of_tokens = F.cross_entropy(outputs.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        return of_tokens.sum(1) / (labels[:, 1:] != -100).sum(1)

    loader = parts({**inputs, "labels": labels}, 5)
    got = pf.importance(model, loader, losses, group_size=4, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    want = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for start in (0, 4, 8):
        part = {key: value[start : start + 4] for key, value in inputs.items()}
        loss = losses(model(**part), labels[start : start + 4]).mean()
        for name, gradient in zip(want, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            want[name] += gradient.abs() / 3
    assert_close(got, want)
    with pytest.raises(DataError, match="do not fit outputs.*a callable"):
        pf.importance(model, loader, "ssd", group_size=4)


@pytest.mark.parametrize("group_size", [4, "batch"])
def test_outputs_with_logits_under_autocast_have_the_bits_of_plain_ones(group_size):
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain

        def forward(self, x):
            return {"logits": self.inner(x)}

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    for objective in ("xlf", "ssd"):
        options = {"group_size": group_size, "amp": torch.bfloat16}
        want = pf.importance(plain, [(X.float(), LABELS)], objective, **options)
        assert torch.equal(pf.importance(Logits(), [(X.float(), LABELS)], objective, **options).sums, want.sums)


def test_an_adapter_overrides_one_part():
    class Images(pf.Adapter):
        """Batches of an image data set of Hugging Face for a model of timm's form."""

        def split(self, batch):
            return batch["image"], batch["fine_label"]

    class Auxiliary(pf.Adapter):
        def logits(self, outputs):
            return outputs[0]

    class SameText(pf.Adapter):
        def call(self, model, inputs):
            return model(inputs, IDS[:1].repeat(len(inputs), 1))

    class Two(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x), x

    torch.manual_seed(0)
    plain = nn.Linear(4, 3)
    two = Two(plain)
    x = X.float()
    want = pf.importance(plain, [(x, LABELS)], "ssd", group_size=1)
    batch = {"image": x, "fine_label": LABELS, "name": ["a"] * TEXTS}
    assert torch.equal(pf.importance(plain, [batch], "ssd", group_size=1, adapter=Images()).sums, want.sums)
    with pytest.raises(ModelError, match="tuple without logits; give an adapter"):
        pf.importance(two, [(x, LABELS)], "ssd", group_size=1)
    assert torch.equal(pf.importance(two, [(x, LABELS)], "ssd", group_size=1, adapter=Auxiliary()).sums, want.sums)

    class OneDict(pf.Adapter):
        def call(self, model, inputs):
            return model(inputs.kwargs)

    class TakesDict(Mixed):
        def forward(self, given):
            return super().forward(given["x"], given["ids"])

    model, options = Mixed(), {"group_size": 1, "dtype": torch.float64}
    got = pf.importance(TakesDict(), [{"x": X, "ids": IDS}], **options, adapter=OneDict())
    assert torch.equal(got.sums, pf.importance(model, [((X, IDS), LABELS)], **options).sums)
    got = pf.importance(model, [(X, LABELS)], **options, adapter=SameText())
    assert torch.equal(got.sums, pf.importance(model, [((X, IDS[:1].repeat(TEXTS, 1)), LABELS)], **options).sums)


def test_a_data_loader_collates_dicts_and_arrays():
    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return TEXTS

        def __getitem__(self, k):
            return {"x": X[k].numpy(), "ids": IDS[k].numpy(), "label": int(LABELS[k])}

    def arrays(samples):
        return {key: torch.stack([torch.as_tensor(s[key]) for s in samples]).numpy() for key in samples[0]}

    want = pf.importance(Mixed(), [((X, IDS), LABELS)], "ssd", group_size=4, dtype=torch.float64)
    for collate in (None, arrays):
        loader = DataLoader(Samples(), batch_size=5, collate_fn=collate)
        got = pf.importance(Mixed(), loader, "ssd", group_size=4, dtype=torch.float64)
        torch.testing.assert_close(got.sums, want.sums, rtol=1e-12, atol=1e-15)
    with pytest.raises(DataError, match="data set"):
        pf.importance(Mixed(), Samples(), group_size=4)


# --- labels


FORMS_OF_LABELS = {
    "int8": LABELS.to(torch.int8),
    "int16": LABELS.to(torch.int16),
    "int32": LABELS.to(torch.int32),
    "uint8": LABELS.to(torch.uint8),
    "uint16": LABELS.to(torch.uint16),
    "float32": LABELS.float(),
    "float16": LABELS.half(),
    "column": LABELS[:, None],
    "column of floats": LABELS[:, None].double(),
    "one-hot": F.one_hot(LABELS, 3),
    "one-hot bool": F.one_hot(LABELS, 3).bool(),
    "one-hot float": F.one_hot(LABELS, 3).double(),
}


@pytest.mark.parametrize("group_size", [1, 5, "batch"])
@pytest.mark.parametrize("form", FORMS_OF_LABELS)
def test_labels_of_any_form_are_those_of_int64(form, group_size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    want = pf.importance(model, [(X, LABELS)], "ssd", group_size=group_size, dtype=torch.float64)
    got = pf.importance(model, [(X, FORMS_OF_LABELS[form])], "ssd", group_size=group_size, dtype=torch.float64)
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-12, atol=1e-15)


def test_ssd_takes_probabilities_and_leaves_out_ignored_labels():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    soft = torch.rand(TEXTS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1)
    got = pf.importance(model, [(X, soft)], "ssd", group_size=4, dtype=torch.float64)
    assert_close(got, looped(model, lambda part: model(X[part]), 4, "ssd", soft))
    ignored = torch.where(torch.arange(TEXTS) < 5, -100, LABELS)
    some = pf.importance(model, [(X, ignored)], "ssd", group_size=1, dtype=torch.float64)
    rest = pf.importance(model, [(X[5:], LABELS[5:])], "ssd", group_size=1, dtype=torch.float64)
    torch.testing.assert_close(some.sums, rest.sums, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("group_size", [1, 4, "batch"])
@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (LABELS + 1, "labels count from 0; found 3 with 3 outputs"),
        ((LABELS + 1).to(torch.uint8), "labels count from 0; found 3 with 3 outputs"),
        (LABELS - 1, "labels count from 0; found -1 with 3 outputs"),
        (LABELS + 0.5, "whole numbers"),
        (LABELS * torch.nan, "whole numbers"),
        (F.one_hot(LABELS, 3) + F.one_hot(LABELS.flip(0), 3), "not one-hot"),
        (F.one_hot(LABELS, 3) * 2.0, "no probabilities"),
        (F.one_hot(LABELS, 4), r"labels \[\d+, 4\] do not fit outputs"),
        (LABELS[:, None].repeat(1, 2), r"labels \[\d+, 2\] do not fit outputs"),
    ],
)
def test_labels_that_are_no_classes_are_refused_in_the_batch_where_they_come(labels, match, group_size, compiled):
    model, fine = nn.Linear(4, 3), (X.float(), LABELS)
    loader = [fine] * 3 if compiled else []
    with pytest.raises(DataError, match=match):
        pf.importance(model, [*loader, (X.float(), labels)], "ssd", group_size=group_size, compiled=compiled)


@pytest.mark.parametrize("outputs", [lambda z: z, lambda z: z[:, 0]], ids=["[B, 1]", "[B]"])
@pytest.mark.parametrize("group_size", [1, 4, "batch"])
def test_one_output_column_has_no_cross_entropy_unless_an_adapter_makes_two_of_it(group_size, outputs):
    class One(nn.Linear):
        def forward(self, x):
            return outputs(super().forward(x))

    torch.manual_seed(0)
    model, labels = One(4, 1).double(), LABELS % 2
    with pytest.raises(ModelError, match="one output column"):
        pf.importance(model, [(X, labels)], "ssd", group_size=group_size)
    got = pf.importance(
        model, [(X, labels)], "ssd", group_size=group_size, dtype=torch.float64, adapter=pf.OneLogitAdapter()
    )

    def binary(z, y):
        return F.binary_cross_entropy_with_logits(z.reshape(-1), y.double(), reduction="none")

    want = pf.importance(
        model, [(X, labels)], pf.Objective("binary", binary, square=True), group_size=group_size, dtype=torch.float64
    )
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-10, atol=1e-15)
    norms = [
        pf.importance(model, [(X, labels)], group_size=group_size, dtype=torch.float64, adapter=adapter)
        for adapter in (pf.Adapter(), pf.OneLogitAdapter())
    ]
    torch.testing.assert_close(norms[0].sums, norms[1].sums, rtol=1e-12, atol=1e-15)
