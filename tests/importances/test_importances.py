from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call, grad, vmap

import potion_fast as pf
from helpers.toys import assert_same_weights, batches, net, samples, weights
from potion_fast.errors import DataError, FileError, ImportanceError, ModelError
from potion_fast.importances.objectives import cross_entropy, norm, squared_norm

LOSSES = {"ssd": cross_entropy, "lf": squared_norm, "xlf": norm}


def oracle(model, inputs, labels, objective, group_size=1):
    """Mean |g| or g² per group by torch.func, a route that shares nothing with the pass but the losses."""
    model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, y):
        return LOSSES[objective](functional_call(model, parameters, (x,)), y).mean()

    total, terms = None, 0
    for start in range(0, len(inputs), group_size):
        part = slice(start, start + group_size)
        x, y = inputs[None, part], labels[None, part]  # a batch of one group
        gradient = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
        statistic = {k: (g[0].square() if objective == "ssd" else g[0].abs()) for k, g in gradient.items()}
        total = statistic if total is None else {k: total[k] + statistic[k] for k in total}
        terms += 1
    return {k: v / terms for k, v in total.items()}


@pytest.mark.parametrize("objective", LOSSES)
@pytest.mark.parametrize("group_size", [1, 3, 7, 50])
def test_importances_are_those_of_torch_func_in_float64(objective, group_size):
    model, (inputs, labels) = net(dtype=torch.float64), samples(13, dtype=torch.float64)
    got = pf.importance(model, batches(inputs, labels, 4), objective, group_size=group_size, dtype=torch.float64)
    for name, want in oracle(model, inputs, labels, objective, group_size).items():
        torch.testing.assert_close(got[name], want, rtol=1e-12, atol=1e-14)
    assert (got.samples, got.terms) == (13, -(-13 // group_size))


def test_the_loaders_batch_size_does_not_matter():
    model, data = net(dtype=torch.float64), samples(12, dtype=torch.float64)
    want = pf.importance(model, batches(*data, 12), "ssd", group_size=5, dtype=torch.float64)
    for size in (1, 3, 4, 5, 7, 11):
        got = pf.importance(model, batches(*data, size), "ssd", group_size=5, dtype=torch.float64)
        torch.testing.assert_close(got.sums, want.sums, rtol=1e-12, atol=1e-15)


def test_group_size_batch_is_the_public_codes_mean_over_batches():
    """Sum over batches of (gradient of the batch mean)², divided by the number of batches, the last one smaller."""
    model, (inputs, labels) = net(), samples(10)
    loader = batches(inputs, labels, 4)
    got = pf.importance(model, loader, "ssd", group_size="batch")
    model.eval()
    want = torch.zeros_like(model.head.weight)
    for x, y in loader:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        want += model.head.weight.grad**2
    assert torch.equal(got["head.weight"], want / len(loader))


def test_absolute_values_stand_inside_the_sum():
    """Two samples with opposite gradients add up at group size 1 and cancel at 2."""
    model = nn.Linear(1, 1, bias=False)
    loader = [(torch.tensor([[1.0], [-1.0]]), torch.zeros(2))]

    def output(outputs, labels):
        return outputs[:, 0]

    assert pf.importance(model, loader, output, group_size=1)["weight"].item() == 1
    with pytest.warns(pf.PotionWarning, match="every importance is exactly 0"):
        assert pf.importance(model, loader, output, group_size=2)["weight"].item() == 0


@pytest.mark.parametrize(("w", "objective"), [(1, "xlf"), (2, "lf")])
def test_exponents_one_and_two_are_xlf_and_lf(w, objective):
    model, loader = net(dtype=torch.float64), batches(*samples(6, dtype=torch.float64), 6)
    got = pf.importance(model, loader, group_size=1, w=w, dtype=torch.float64)
    want = pf.importance(model, loader, objective, group_size=1, dtype=torch.float64)
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-12, atol=1e-14)


def test_a_general_exponent_scales_each_sample_by_w_times_its_norm_to_the_w_minus_one():
    model, (inputs, labels) = net(dtype=torch.float64), samples(1, dtype=torch.float64)
    got = pf.importance(model, [(inputs, labels)], group_size=1, w=0.5, dtype=torch.float64)
    xlf = pf.importance(model, [(inputs, labels)], "xlf", group_size=1, dtype=torch.float64)
    length = model.eval()(inputs).norm()
    torch.testing.assert_close(got.sums, xlf.sums * 0.5 * length**-0.5, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("w", [0.5, 1, 1.5, 2, 3])
def test_a_sample_whose_output_is_zero_contributes_zero(w):
    model = nn.Linear(2, 3, bias=False)
    one = torch.tensor([[1.0, 2.0]])
    alone = pf.importance(model, [(one, torch.zeros(1))], group_size=1, w=w)
    with_zero = pf.importance(model, [(torch.cat([one, torch.zeros(1, 2)]), torch.zeros(2))], group_size=1, w=w)
    assert with_zero.samples == 2
    assert torch.equal(with_zero.sums, alone.sums)


def test_objectives_of_ones_own():
    model, loader = net(), batches(*samples(5), 5)

    def margin(outputs, labels):
        return outputs.max(1).values

    assert pf.importance(model, loader, margin, group_size=1).objective.endswith("margin")
    pf.register_objective(pf.Objective("margin-squared", margin, square=True))
    try:
        by_name = pf.importance(model, loader, "margin-squared", group_size=1)
        assert torch.equal(
            by_name.sums, pf.importance(model, loader, pf.Objective("x", margin, square=True), group_size=1).sums
        )
        with pytest.raises(ImportanceError, match="registered already"):
            pf.register_objective(pf.Objective("margin-squared", margin))
    finally:
        del pf.importances.OBJECTIVES["margin-squared"]


def test_the_model_comes_back_as_it_was():
    model = net()
    model.norm.eval()  # a layer frozen in eval mode
    model.head.bias.requires_grad_(False)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before, modes = weights(model), [module.training for module in model.modules()]
    with torch.no_grad():
        result = pf.importance(model, batches(*samples(6), 2), group_size=1)
    assert_same_weights(model, before)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert model.twice.weight.grad is None
    assert "head.bias" not in result.shapes

    def broken(outputs, labels):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        pf.importance(model, batches(*samples(6), 2), broken, group_size=1)
    assert [module.training for module in model.modules()] == modes


def test_a_pass_inside_inference_mode_works():
    model, loader = net(), batches(*samples(6), 2)
    want = pf.importance(model, loader, group_size=1)
    with torch.inference_mode():
        got = pf.importance(model, loader, group_size=1)
    torch.testing.assert_close(got.sums, want.sums, rtol=1e-12, atol=1e-15)


def test_merged_importances_are_those_of_one_pass():
    model, (inputs, labels) = net(), samples(9)
    whole = pf.importance(model, batches(inputs, labels, 2), "ssd", group_size=1)
    parts = [pf.importance(model, [(inputs[a:b], labels[a:b])], "ssd", group_size=1) for a, b in ((0, 4), (4, 9))]
    merged = parts[0].merge(parts[1])
    assert (merged.samples, merged.terms) == (9, 9)
    torch.testing.assert_close(merged.sums, whole.sums, rtol=1e-6, atol=0)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("group_size", "match"), [("batch", "batch boundaries"), (3, "not a multiple")])
def test_a_merge_across_a_group_says_that_it_is_not_exact(group_size, match):
    model, data = net(), samples(4)
    a = pf.importance(model, [data], group_size=group_size)
    with pytest.warns(pf.PotionWarning, match=match):
        a.merge(a)


def test_a_merge_at_group_boundaries_is_exact_and_silent():
    model, (inputs, labels) = net(dtype=torch.float64), samples(10, dtype=torch.float64)
    a, b = (
        pf.importance(model, [(inputs[p], labels[p])], group_size=3, dtype=torch.float64)
        for p in (slice(6), slice(6, 10))
    )
    whole = pf.importance(model, [(inputs, labels)], group_size=3, dtype=torch.float64)
    torch.testing.assert_close(a.merge(b).mean, whole.mean, rtol=1e-13, atol=0)


def test_importances_survive_a_file_to_the_bit(tmp_path):
    for dtype in (torch.float32, torch.float64):
        saved = pf.importance(net(), batches(*samples(6), 4), "lf", group_size="batch", dtype=dtype)
        saved.save(tmp_path / "x.safetensors")
        loaded = pf.Importance.load(tmp_path / "x.safetensors")
        loaded.check_same(saved)
        assert torch.equal(loaded.sums, saved.sums) and loaded.shapes == saved.shapes
        assert (loaded.samples, loaded.terms, loaded.group_size) == (6, 2, "batch")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_file_that_is_truncated_foreign_or_missing_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    pf.importance(net(), batches(*samples(2), 2), group_size=1).save(path)
    content = path.read_bytes()
    for broken in (b"", content[:5], content[:100], content[:-7]):
        path.write_bytes(broken)
        with pytest.raises(FileError, match=r"x\.safetensors"):
            pf.Importance.load(path)
    save_file({"sums": torch.zeros(3)}, path)
    with pytest.raises(FileError, match="holds no importances"):
        pf.Importance.load(path)
    with pytest.raises(FileError, match="no importances at"):
        pf.Importance.load(tmp_path / "none.safetensors")
    with pytest.raises(FileError, match="does not exist"):
        pf.importance(net(), batches(*samples(2), 2), group_size=1).save(tmp_path / "no" / "x.safetensors")


def test_importances_of_another_model_weights_objective_or_group_size_are_refused():
    data = batches(*samples(4), 2)
    mine = pf.importance(net(), data, group_size=1)
    with pytest.raises(ImportanceError, match="fingerprint"):
        mine.check_same(pf.importance(net(seed=5), data, group_size=1))
    with pytest.raises(ImportanceError, match="objective"):
        mine.check_same(pf.importance(net(), data, "lf", group_size=1))
    with pytest.raises(ImportanceError, match="group_size"):
        mine.merge(pf.importance(net(), data, group_size=2))
    with pytest.raises(ImportanceError, match="dtype"):
        mine.check_same(pf.importance(net(), data, group_size=1, dtype=torch.float64))
    linear = nn.Linear(2, 2)
    with pytest.raises(ImportanceError, match="'conv.weight' is .* and missing"):
        mine.check_same(pf.importance(linear, [(torch.ones(1, 2), torch.zeros(1))], group_size=1))
    with pytest.raises(ImportanceError, match="another model.*'conv.weight'"):
        mine.check_model(linear)
    with pytest.raises(KeyError, match="nothing"):
        mine["nothing"]


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        ([], "no samples"),
        ([(torch.zeros(0, 2, 4, 4), torch.zeros(0))], "no samples"),
        ([(torch.zeros(2, 2, 4, 4),)], "needs labels"),
        ([torch.zeros(2, 2, 4, 4)], "needs labels"),
        ([(torch.zeros(2, 2, 4, 4), torch.zeros(3, dtype=torch.int64))], "differ in number"),
        ([{"x": torch.zeros(2, 2, 4, 4)}], "needs labels"),
        ([("x", "y")], "a str as input"),
    ],
)
def test_a_loader_that_is_not_what_the_objective_needs_is_an_error(loader, match):
    with pytest.raises(DataError, match=match):
        pf.importance(net(), loader, "ssd", group_size=1)


def test_label_free_objectives_take_batches_without_labels_and_with_more_than_labels():
    model, (inputs, labels) = net(), samples(4)
    want = pf.importance(model, [(inputs, labels)], group_size=1)
    for loader in ([inputs], [(inputs,)], [(inputs, labels, labels, "id")], [[inputs, labels]]):
        assert torch.equal(pf.importance(model, loader, group_size=1).sums, want.sums)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"objective": "nonsense"}, "xlf"),
        ({"objective": 3}, "int"),
        ({"objective": "lf", "w": 1.0}, "not both"),
        ({"w": 0.0}, "above 0"),
        ({"w": float("nan")}, "above 0"),
        ({"group_size": 0}, "group_size"),
        ({"group_size": 2.0}, "group_size"),
        ({"group_size": "all"}, "group_size"),
        ({"dtype": torch.float16}, "float16"),
        ({"objective": lambda outputs, labels: outputs.sum()}, "one per sample"),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ImportanceError, match=match):
        pf.importance(net(), batches(*samples(2), 2), **{"group_size": 1, **options})


def test_values_that_are_not_finite_are_found_and_named():
    inputs, labels = samples(6)
    inputs[4] = torch.inf
    with pytest.raises(ImportanceError, match="sample 4"):
        pf.importance(net(), [(inputs, labels)], group_size=1)
    with pytest.raises(ImportanceError, match="sample 4"):
        pf.importance(net(), [(inputs, labels)], group_size=3)
    model = net()
    with torch.no_grad():
        model.twice.bias[3] = torch.nan
    with pytest.raises(ModelError, match=r"twice\.bias"):
        pf.importance(model, batches(*samples(2), 2), group_size=1)
    steep = nn.Linear(1, 1, bias=False)
    with pytest.raises(ImportanceError, match="'weight' are not finite"):
        pf.importance(
            steep,
            [(torch.tensor([[1e30]]), torch.zeros(1))],
            pf.Objective("sum", lambda o, y: o.sum(1), True),
            group_size=1,
        )


@pytest.mark.parametrize("objective", ["ssd", "lf", "xlf"])
def test_a_model_that_gives_no_tensor_needs_an_objective_of_its_own(objective):
    class Wrapped(nn.Linear):
        def forward(self, x):
            return {"scores": super().forward(x)}

    model, loader = Wrapped(3, 2), [(torch.ones(2, 3), torch.tensor([0, 1]))]
    with pytest.raises(ModelError, match="gives a dict without logits"):
        pf.importance(model, loader, objective, group_size=1)
    own = pf.importance(model, loader, lambda outputs, labels: outputs["scores"].norm(dim=1), group_size=1)
    assert own["weight"].shape == (2, 3)


def test_outputs_without_a_class_dimension_are_norms_of_numbers():
    class Regression(nn.Linear):
        def forward(self, x):
            return super().forward(x)[:, 0]

    model = Regression(3, 1, bias=False)
    got = pf.importance(model, [(torch.ones(2, 3), torch.zeros(2))], group_size=1)
    torch.testing.assert_close(got["weight"], torch.ones(1, 3))


def test_a_model_without_trainable_parameters_is_an_error():
    with pytest.raises(ImportanceError, match="no trainable parameter"):
        pf.importance(nn.ReLU(), [(torch.ones(1, 1), torch.zeros(1))], group_size=1)


@pytest.mark.parametrize(
    ("objective", "match"),
    [
        (lambda outputs: outputs.norm(dim=1), "must take .outputs, labels."),
        (lambda outputs, labels, weights: outputs.norm(dim=1), "must take .outputs, labels."),
        (lambda outputs, labels: None, "as a NoneType"),
        (lambda outputs, labels: [1.0] * len(outputs), "as a list"),
        (lambda outputs, labels: outputs.norm(dim=1).to(torch.complex64), "complex"),
    ],
)
def test_callables_that_are_no_objectives_are_refused(objective, match):
    with pytest.raises(ImportanceError, match=match):
        pf.importance(torch.nn.Linear(2, 3), [(torch.ones(4, 2), torch.zeros(4))], objective, group_size=2)
