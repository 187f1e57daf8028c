from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import potion_fast as pf
from helpers.backends import Backend
from helpers.toys import Blobs, assert_same_weights, weights
from potion_fast.errors import DataError, ImportanceError, SearchError
from potion_fast.modes import mode_named


class Unread:
    def __iter__(self):
        raise AssertionError("this loader must not be read")


@pytest.mark.parametrize("objective", ["xlf", "lf", "ssd"])
def test_the_whole_method_in_one_call_is_its_parts_in_a_row(blobs, objective):
    original = weights(blobs.model)
    result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), objective)
    forget = pf.importance(blobs.model, blobs.forget(), objective, group_size=10)
    retain = pf.importance(blobs.model, blobs.retain(), objective, group_size=10)
    parts = pf.ptn_search(blobs.model, forget, retain, blobs.forget())
    assert_same_weights(result.model, weights(parts.model))
    assert_same_weights(blobs.model, original)
    assert (result.objective, result.mode, result.group_size) == (objective, "default", 10)
    assert set(result.seconds) == {"forget", "retain", "search"}


def test_results_are_shown_in_a_few_lines(blobs):
    """In a notebook, not with the numbers of every weight."""
    result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget())
    assert "objective='xlf'" in repr(result.retain) and repr(result).startswith("unlearnt on what was found: ")
    for shown in (repr(result), repr(result.retain)):
        assert "tensor" not in shown and len(shown) < 2000


@pytest.mark.parametrize("found", [10, 70])
def test_the_recipe_of_the_readme_gives_what_unlearn_gives(found, capsys):
    """Both of its code blocks run as they are printed, with fewer and with more samples found than a group holds."""
    blobs = Blobs(n=700, poisoned=80)
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    whole, steps = re.findall(r"```python\n(.*?)```", readme.partition("## Potion's method")[2], re.DOTALL)[:2]
    names = {
        "model": blobs.model,
        "retain_loader": blobs.retain(found),
        "forget_loader": blobs.forget(found),
        "number_found": found,
    }
    exec(whole, names)
    assert "threshold passed" in capsys.readouterr().out
    want = names.pop("result")
    original = weights(blobs.model)
    exec("import potion_fast as pf\n" + steps, names)
    assert_same_weights(names["result"].model, weights(want.model))
    assert names["result"].group_size == want.group_size == min(64, found)
    assert names["alphas"].shape == (3,)
    assert_same_weights(blobs.model, original)


@pytest.mark.parametrize(("mode", "group_size"), [("default", 10), ("reference", "batch"), ("paper", 1)])
def test_the_mode_sets_the_group_size_and_an_argument_wins(blobs, mode, group_size):
    result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), mode=mode)
    assert (result.mode, result.group_size) == (mode, group_size)
    assert pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), mode=mode, group_size=4).group_size == 4


@pytest.mark.parametrize("found", [1, 5, 20])
def test_groups_are_no_larger_than_the_forget_set(blobs, found):
    assert pf.unlearn(blobs.model, blobs.retain(found), blobs.forget(found)).group_size == found
    assert pf.unlearn(blobs.model, blobs.retain(found), blobs.forget(found), mode="paper").group_size == 1


@pytest.mark.parametrize(
    ("mode", "found", "group_size"),
    [("default", 63, 63), ("default", 500, 64), ("default", 0, 1), ("paper", 500, 1), ("reference", 3, "batch")],
)
def test_the_modes_group_sizes(mode, found, group_size):
    assert mode_named(mode).group_size_for(found) == group_size


def test_retain_importances_computed_before_are_used(blobs):
    retain = pf.importance(blobs.model, blobs.retain(), group_size=3)
    result = pf.unlearn(blobs.model, Unread(), blobs.forget(), retain=retain)
    want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), group_size=3)
    assert_same_weights(result.model, weights(want.model))
    assert result.group_size == 3
    assert "retain" not in result.seconds
    with pytest.raises(ImportanceError, match="objective"):
        pf.unlearn(blobs.model, Unread(), blobs.forget(), "lf", retain=retain)
    with pytest.raises(ImportanceError, match="group_size"):
        pf.unlearn(blobs.model, Unread(), blobs.forget(), group_size=2, retain=retain)


def test_with_both_importances_computed_before_only_the_search_is_left(blobs):
    want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), "lf")
    given = {"forget": want.forget, "retain": want.retain}
    result = pf.unlearn(blobs.model, Unread(), Unread(), evaluation_loader=blobs.forget(), **given)
    assert_same_weights(result.model, weights(want.model))
    assert (set(result.seconds), result.objective, result.group_size) == ({"search"}, "lf", 10)
    other = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), "lf", forget=want.forget)
    assert_same_weights(other.model, weights(want.model))
    assert set(other.seconds) == {"retain", "search"}


def test_importances_can_be_saved_before_the_next_step(blobs, tmp_path):
    class Broken:
        def __iter__(self):
            assert [path.name for path in tmp_path.iterdir()] == ["forget"]
            raise OSError("disk")

    def save(name, importance):
        importance.save(tmp_path / name)

    with pytest.raises(OSError, match="disk"):
        pf.unlearn(blobs.model, Broken(), blobs.forget(), on_importance=save)
    result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), on_importance=save)
    for name in ("forget", "retain"):
        assert torch.equal(pf.Importance.load(tmp_path / name).sums, getattr(result, name).sums)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rho": 2}, SearchError, "rho must"),
        ({"mode": "x"}, SearchError, "mode"),
        ({"objective": "x"}, ImportanceError, "objective"),
        ({"group_size": 0}, ImportanceError, "group_size"),
        ({"forget_loader": []}, DataError, "no batch"),
    ],
)
def test_errors_are_raised_before_the_pass_over_the_training_data(blobs, options, error, match):
    with pytest.raises(error, match=match):
        pf.unlearn(blobs.model, Unread(), **{"forget_loader": blobs.forget(), **options})


def test_every_backend_heals_alike(blobs, backend):
    """The edits have the same bits; the importances, and so the weights, differ in rounding."""
    with Backend("reference", "cpu").use():
        want = weights(pf.unlearn(blobs.model, blobs.retain(), blobs.forget()).model)
    model = copy.deepcopy(blobs.model).to(backend.device)
    with backend.use():
        got = pf.unlearn(model, blobs.retain(), blobs.forget()).model
    torch.testing.assert_close({k: v.cpu() for k, v in got.state_dict().items()}, want, rtol=1e-3, atol=1e-4)


def test_the_long_pass_can_be_checkpointed_and_resumed(blobs, tmp_path):
    def broken():
        yield from blobs.retain()[:3]
        raise OSError("disk")

    want = weights(pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), amp=torch.bfloat16).model)
    options = {"amp": torch.bfloat16, "checkpoint": tmp_path / "retain.pass"}
    with pytest.raises(OSError, match="disk"):
        pf.unlearn(blobs.model, broken(), blobs.forget(), **options)
    assert options["checkpoint"].exists()
    result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), **options, resume=True)
    assert_same_weights(result.model, want)
    assert not options["checkpoint"].exists()


def test_in_place_the_callers_model_is_healed_and_kept_in_its_mode(blobs):
    model = copy.deepcopy(blobs.model).train()
    result = pf.unlearn(model, blobs.retain(), blobs.forget(), inplace=True)
    assert result.model is model and model.training
    assert not torch.equal(model[0].weight, blobs.model[0].weight)


class Merging(nn.Linear):
    """Gives its weight other memory when it first goes to eval mode, as LoRA layers do that merge themselves."""

    merged = False

    def train(self, mode: bool = True):
        if not mode and not self.merged:
            self.weight.data, self.merged = self.weight.data + 0.01, True
        return super().train(mode)


def test_a_model_whose_eval_gives_weights_other_memory_is_healed_in_that_memory(blobs):
    def merging() -> nn.Module:
        layer = Merging(12, 64)
        layer.load_state_dict(blobs.model[0].state_dict())
        return nn.Sequential(layer, *copy.deepcopy(blobs.model[1:])).train()

    want = pf.unlearn(merging().eval(), blobs.retain(), blobs.forget())
    assert want.kept.dampened
    model = merging()
    assert_same_weights(pf.unlearn(model, blobs.retain(), blobs.forget(), inplace=True).model, weights(want.model))
    assert_same_weights(pf.unlearn(merging(), blobs.retain(), blobs.forget()).model, weights(want.model))
    model = merging()
    forget, retain = (pf.importance(model, batches, group_size=10) for batches in (blobs.forget(), blobs.retain()))
    assert_same_weights(pf.ptn_search(model, forget, retain, blobs.forget()).model, weights(want.model))


class Counted:
    """Batches, and how many of them were read."""

    def __init__(self, batches, name="", log=None):
        self.batches, self.read = batches, 0
        self.name, self.log = name, [] if log is None else log

    def __iter__(self):
        self.log.append(self.name)
        for batch in self.batches:
            self.read += 1
            yield batch


class HoldsFile(nn.Sequential):
    """Cannot be copied."""

    def __deepcopy__(self, memo):
        raise RuntimeError("there is only one")


class Pair(nn.Sequential):
    def forward(self, x):
        return super().forward(x), x


def first_logit(outputs, labels):
    return outputs[0][:, 0]


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (lambda model: model.bfloat16(), {}, "bfloat16"),
        (lambda model: model.double(), {}, "float64"),
        (lambda model: HoldsFile(*model), {}, "there is only one; heal the model itself, with inplace=True"),
        (lambda model: Pair(*model), {"objective": first_logit}, "tuple"),
        (lambda model: nn.Sequential(*model, nn.Linear(2, 1), nn.Flatten(0)), {}, "one output column"),
        (lambda model: nn.Sequential(nn.LazyLinear(2)), {}, "call the model on a batch first"),
        (lambda model: model, {"evaluation_loader": [(torch.zeros(2, 12),)]}, "no labels"),
        (lambda model: model, {"evaluation_loader": [(torch.zeros(2, 12), torch.tensor([2, 3]))]}, "label"),
        (lambda model: model, {"strategy": "minimal", "b_start": 1.0}, "b_start"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_what_can_fail_does_before_the_training_data_are_read(blobs, change, options, match):
    retain = Counted(blobs.retain())
    with pytest.raises(pf.PotionError, match=match):
        pf.unlearn(change(copy.deepcopy(blobs.model)), retain, blobs.forget(), **options)
    assert retain.read == 0


def test_importances_that_do_not_belong_to_those_asked_for_are_refused_before_the_pass(blobs):
    given = pf.importance(blobs.model, blobs.forget(), "lf", group_size=10)
    other = copy.deepcopy(blobs.model)
    with torch.no_grad():
        other[0].bias += 1
    for model, options in ((blobs.model, {}), (blobs.model, {"group_size": 3, "objective": "lf"}), (other, {})):
        retain = Counted(blobs.retain())
        with pytest.raises(ImportanceError):
            pf.unlearn(model, retain, Unread(), evaluation_loader=blobs.forget(), forget=given, **options)
        assert retain.read == 0


@pytest.mark.parametrize(
    ("mode", "order"), [("default", ["S_f", "S_f", "found", "training"]), ("reference", ["S_f", "training", "found"])]
)
def test_s_f_is_read_for_its_accuracy_and_its_features_then_the_passes_run(blobs, mode, order):
    log = []
    loaders = [Counted(blobs.retain(), "training", log), Counted(blobs.forget(), "found", log)]
    result = pf.unlearn(
        blobs.model, *loaders, mode=mode, group_size=10, evaluation_loader=Counted(blobs.forget(), "S_f", log)
    )
    assert log == [*order, *["S_f"] * (result.evaluations - 1)]


def test_a_trigger_that_was_not_learnt_costs_no_pass(blobs):
    forget = [(inputs, 1 - labels) for inputs, labels in blobs.forget()]
    with pytest.warns(pf.PotionWarning, match="not learnt") as caught:
        result = pf.unlearn(blobs.model, Unread(), forget)
    assert (result.reason, result.trace, result.forget, result.retain) == ("trigger not learnt", [], None, None)
    assert (result.objective, result.group_size) == ("xlf", 10) and result.summary()["kept_step"] is None
    assert_same_weights(result.model, weights(blobs.model))
    assert {w.filename for w in caught} == {__file__}
    with pytest.warns(pf.PotionWarning, match="not learnt"):  # the public code applies its first step
        result = pf.unlearn(blobs.model, blobs.retain(), forget, mode="reference")
    assert result.kept is not None and result.retain is not None


def test_warnings_of_the_search_point_at_the_caller(blobs):
    with pytest.warns(pf.PotionWarning, match="out of steps") as caught:
        result = pf.unlearn(blobs.model, blobs.retain(), blobs.forget(), max_steps=1)
    with pytest.warns(pf.PotionWarning, match="out of steps") as of_search:
        pf.ptn_search(blobs.model, result.forget, result.retain, blobs.forget(), max_steps=1)
    assert {w.filename for w in (*caught, *of_search)} == {__file__}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_checkpoint_of_a_finished_pass_outlives_a_failure_after_it(blobs, tmp_path, monkeypatch, error, inplace):
    def fails(*arguments, **options):
        raise error

    path, want = tmp_path / "retain.pass", pf.unlearn(blobs.model, blobs.retain(), blobs.forget())
    model = copy.deepcopy(blobs.model)
    with monkeypatch.context() as patched:
        patched.setattr(pf.unlearning, "search_from", fails)
        with pytest.raises(error):
            pf.unlearn(model, blobs.retain(), blobs.forget(), checkpoint=path, inplace=inplace)
    assert path.exists()
    assert_same_weights(model, weights(blobs.model))
    got = pf.unlearn(model, Unread(), blobs.forget(), checkpoint=path, resume=True, inplace=inplace)
    assert torch.equal(got.retain.sums, want.retain.sums)
    assert (got.retain.samples, got.retain.terms) == (want.retain.samples, want.retain.terms)
    assert_same_weights(got.model, weights(want.model))
    assert not path.exists()


def test_a_finished_pass_over_another_number_of_samples_is_refused(blobs, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise OSError("disk")

    def loader(samples):
        data = torch.utils.data.TensorDataset(blobs.inputs[:samples], blobs.labels[:samples])
        return torch.utils.data.DataLoader(data, 32)

    path = tmp_path / "retain.pass"
    with monkeypatch.context() as patched:
        patched.setattr(pf.unlearning, "search_from", fails)
        with pytest.raises(OSError, match="disk"):
            pf.unlearn(blobs.model, loader(150), blobs.forget(), checkpoint=path)
    with pytest.raises(DataError, match="over 150 samples, and retain_loader gives 140"):
        pf.unlearn(blobs.model, loader(140), blobs.forget(), checkpoint=path, resume=True)


def test_a_model_made_under_inference_mode_is_healed_in_its_copy(blobs):
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 2))
        model.load_state_dict(blobs.model.state_dict())
    want = pf.unlearn(blobs.model, blobs.retain(), blobs.forget())
    got = pf.unlearn(model, blobs.retain(), blobs.forget())
    assert_same_weights(got.model, weights(want.model))
    assert not any(parameter.is_inference() for parameter in got.model.parameters())
    for call in (
        lambda: pf.unlearn(model, Unread(), blobs.forget(), inplace=True),
        lambda: pf.importance(model, Unread(), group_size=1),
    ):
        with pytest.raises(pf.errors.ModelError, match="inference_mode"):
            call()


def test_importances_are_given_as_such_and_not_by_the_name_of_a_file():
    with pytest.raises(ImportanceError, match=r"forget is a str.*Importance\.load"):
        pf.unlearn(nn.Linear(2, 2), [], [], forget="forget.safetensors")


def test_outputs_that_are_not_finite_before_any_edit_are_no_collapse(blobs):
    (inputs, labels), *_ = blobs.forget()
    with pytest.raises(pf.errors.ModelError, match="before any edit"):
        pf.unlearn(blobs.model, blobs.retain(), [(inputs * float("inf"), labels)])
