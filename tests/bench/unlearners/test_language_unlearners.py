"""Every unlearner of the bench on language models of both heads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from helpers.texts import language_model, texts, with_noise
from helpers.toys import Batches, assert_same_weights, batches, weights
from helpers.unlearned import TRAINED
from potion_fast.bench.unlearners import UNLEARNERS, Loaders, TrainingIndex, Unlearned, make_unlearner
from potion_fast.bench.unlearners.jit import slope
from potion_fast.errors import DataError

FEW_STEPS = {"iterations": 4, "lr": 1e-2, "optimizer": "adamw"}
SMALL: dict[str, dict[str, Any]] = {
    "ptn-xlf": {"max_steps": 20},
    "ptn-lf": {"max_steps": 20},
    "ptn-ssd": {"max_steps": 20},
    "jit": {"iterations": 2, "copies": 2, "lr": 1e-2},
    "scrub-goel": {"iterations": 4, "msteps": 2},
    "scrub-kurmanji": {"iterations": 4},
    "rem": {"iterations": 4},
    "anp": {"iterations": 40},
    "ft": FEW_STEPS,
    "ft-sam": FEW_STEPS,
    "nad": {**FEW_STEPS, "teacher_epochs": 1},
    "cuts": FEW_STEPS,
    "cf-expanded": FEW_STEPS,
    "sap": {"trusted": 20},
}


def data(noise: bool = False) -> tuple[Batches, Batches, Batches]:
    """S_f, the rest and a validation set: samples whose first token is the label, with S_f's all 2."""
    inputs, labels = texts(40), texts(40)[:, 0] % 2
    inputs = with_noise(inputs) if noise else inputs
    found = torch.full((6,), 2)
    return batches(inputs[:6], found, 3), batches(inputs[6:], labels[6:], 17), batches(inputs[20:], labels[20:], 20)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Trained on all of the data."""
    torch.manual_seed(0)
    trained = {}
    for head in ("classifier", "causal"):
        forget, retain, _ = data()
        model = language_model(head)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(12):
            for inputs, labels in forget + retain:
                loss = torch.nn.functional.cross_entropy(model(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        trained[head] = model.eval()
    return trained


def run(name: str, model: Any, noise: bool) -> Unlearned:
    forget, retain, validation = data(noise)
    settings = SMALL.get(name, FEW_STEPS if name in TRAINED else {})
    parts = [torch.cat([batch[place] for batch in [*forget, *retain]]) for place in (0, 1)]
    index = TrainingIndex(TensorDataset(*parts), range(6))
    loaders = Loaders(forget, retain, validation=validation, training=index, clean=validation)
    return make_unlearner(name, **settings)(model, loaders)


@pytest.mark.filterwarnings("ignore::potion_fast.errors.PotionWarning")  # so small a model may collapse
@pytest.mark.parametrize("head", ["classifier", "causal"])
@pytest.mark.parametrize("name", UNLEARNERS)
def test_every_method_unlearns_texts(models: dict[str, Any], name: str, head: str):
    model = models[head]
    before = weights(model)
    done = run(name, model, noise=name in ("jit", "i-bau"))
    assert_same_weights(model, before)
    assert done.model.tied == (head == "causal")
    changed = any(not torch.equal(tensor, before[key]) for key, tensor in done.model.state_dict().items())
    if name == "ssd-goel":  # which may find the model best as it was
        assert len({setting.dampened for setting in done.trace}) > 1
    elif name == "heal":  # likewise
        assert done.trace[-1].step > 0
    elif name in ("ptn-ssd", "assd"):  # of samples that are fitted well no gradient is left, and nothing is dampened
        assert done.trace
    else:
        assert changed == (name != "none")
    assert all(parameter.isfinite().all() for parameter in done.model.parameters())


@pytest.mark.parametrize("head", ["classifier", "causal"])
def test_methods_that_reset_the_end_leave_the_embedding_alone(models: dict[str, Any], head: str):
    before = weights(models[head])
    for name in ("euk-pawelczyk", "euk-goel", "cf-k", "cfk-pawelczyk"):
        after = run(name, models[head], noise=False).model.state_dict()
        changed = {key for key in after if not torch.equal(after[key], before[key])}
        assert changed and not {key for key in changed if "wte" in key or "h.0." in key}


def test_jit_moves_the_embedded_tokens_and_no_ids():
    model, inputs, seen = language_model("classifier"), with_noise(texts(5)), []
    model.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    torch.manual_seed(0)
    got = slope(model, inputs, copies=2, sigma=0.5)
    assert len(seen) == 3 and all(torch.equal(x[..., 0], inputs[..., 0]) for x in seen)
    moved = seen[1][..., 1:] - inputs[..., 1:]
    assert moved.std().item() == pytest.approx(0.5, rel=0.1)  # nothing is clamped away
    outputs = [model(x) for x in seen[:3]]
    slopes = [(outputs[0] - outputs[i]).norm(dim=1) / (inputs - seen[i]).flatten(1).norm(dim=1) for i in (1, 2)]
    torch.testing.assert_close(got, (slopes[0] + slopes[1]).sum() / 2)


@pytest.mark.parametrize("name", ["jit", "i-bau"])
@pytest.mark.parametrize("head", ["classifier", "causal"])
def test_methods_that_move_inputs_refuse_token_ids(models: dict[str, Any], head: str, name: str):
    with pytest.raises(DataError, match="token ids cannot be moved"):
        run(name, copy.deepcopy(models[head]), noise=False)
