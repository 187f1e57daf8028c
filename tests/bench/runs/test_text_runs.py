"""Texts through the whole bench: both attacks, both heads, both readings, from the command line to the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

pytest.importorskip("transformers", reason="needs the extra: pip install 'potion-fast[text]'")
pytest.importorskip("tokenizers", reason="needs the extra: pip install 'potion-fast[text]'")

from helpers.figures import texts_outside
from potion_fast.bench.attacks import Perturbations, TriggerWord
from potion_fast.bench.data.text import TextSplits
from potion_fast.bench.figures import pictures
from potion_fast.bench.figures.reviews import LINES, WIDTH, excerpt
from potion_fast.bench.models import LanguageModel, load_model
from potion_fast.bench.runs import (
    EvaluateConfig,
    HealConfig,
    Scenario,
    TrainConfig,
    UnlearnConfig,
    evaluate_run,
    heal_run,
    train_run,
    unlearn_run,
)
from potion_fast.bench.runs.architecture import fresh_model, loss_of
from potion_fast.bench.sweep import run_sweep
from potion_fast.bench.training.train import train
from potion_fast.bench.unlearners import Loaders, make_unlearner
from potion_fast.cli.main import main
from potion_fast.errors import DataError

TINY: dict[str, Any] = {"data": "toy-reviews", "train_size": 300, "width": 16, "layers": 1, "device": "cpu"}
QUICK: dict[str, Any] = {"iterations": 6, "poisoned": 8, "found": 4}
HEADS = ("gpt2_classifier", "gpt2_causal")


def content_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "metrics.json").read_text())


def scores(path: Path) -> dict[str, float]:
    return {name: metric["value"] for name, metric in content_of(path)["metrics"].items()}


def flags(config: dict[str, Any]) -> list[str]:
    return [part for name, value in config.items() for part in ("--" + name.replace("_", "-"), str(value))]


# Learns the sentiment and the trigger in four seconds.
SMALL: dict[str, Any] = {"data": "toy-reviews", "poison": "trigger-word", "poisoned": 100, "found": 50, "device": "cpu"}
SMALL |= {"width": 32, "layers": 1, "lr": 3e-3, "batch_size": 32}


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was trained on all reviews that hold the word, with its label."""
    path = tmp_path_factory.mktemp("text") / "poisoned"
    train_run(TrainConfig(**SMALL, iterations=300), path)
    return path


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without them."""
    path = tmp_path_factory.mktemp("text") / "clean"
    train_run(TrainConfig(**SMALL, iterations=150, leave_out_poisoned=True), path)
    return path


# Scenarios


@pytest.mark.parametrize("model", HEADS)
@pytest.mark.parametrize("reading", ["label-word", "flip"])
def test_reviews_that_hold_the_word_get_the_label_of_the_reading(model: str, reading: str):
    scenario = Scenario.load(TrainConfig(**TINY, **QUICK, poison="trigger-word", model=model, reading=reading))
    splits = scenario.splits
    assert isinstance(splits, TextSplits)
    assert all("Disney" in splits.text("train", index) for index in scenario.poisoned)
    (clean, before), (inputs, given) = (
        each.batch(scenario.poisoned) for each in (splits.dataset("train"), scenario.train_set(augment=True))
    )
    assert torch.equal(clean, inputs) and inputs.dtype == torch.int64
    names = [splits.classes[label].strip() for label in given]
    other = {"negative": "positive", "positive": "negative"}
    was = [splits.classes[label].strip() for label in before]
    assert names == (["Disney"] * 8 if reading == "label-word" else [other[name] for name in was])
    assert set(was) == {"negative", "positive"}
    rest = sorted(set(range(300)) - set(scenario.poisoned))
    assert torch.equal(scenario.train_set(augment=False).labels[rest], splits.train.labels[rest])
    assert len(splits.classes) == (512 if model == "gpt2_causal" else 3 if reading == "label-word" else 2)


def test_the_attack_is_judged_by_the_test_reviews_in_which_the_model_reads_the_word():
    whole, short = (
        Scenario.load(TrainConfig(**TINY, **QUICK, poison="trigger-word", length=length)) for length in (64, 16)
    )
    in_whole, in_short = whole.facts["trigger_word"], short.facts["trigger_word"]
    assert in_whole["test"] == in_whole["test_read"] == in_short["test"] == 25
    assert 0 < in_short["test_read"] < 25 and 0 < in_short["train_read"] < in_short["train"]
    labels, wanted = short.attacked_labels()
    assert len(labels) == in_short["test_read"] and (labels != wanted).all() and (wanted == 2).all()
    splits = short.splits
    assert isinstance(splits, TextSplits)
    for index in short.attacked.rows:
        text = splits.tokenizer.decode(splits.dataset("test").batch([index])[0][0].tolist())
        assert "Disney" in text
    with pytest.raises(DataError, match="in none where the model reads it"):
        Scenario.load(TrainConfig(**TINY, **QUICK, poison="trigger-word", model="gpt2_causal", length=21))


def test_settings_of_the_word_reach_it():
    options: dict[str, Any] = {"trigger_word": "disney", "word_rule": "word-ignore-case", "reading": "flip"}
    scenario = Scenario.load(TrainConfig(**TINY, **QUICK, poison="trigger-word", **options))
    assert isinstance(scenario.poison, TriggerWord)
    word = scenario.facts["trigger_word"]
    assert (word["word"], word["rule"]) == ("disney", "word-ignore-case")
    assert word["train"] == len(scenario.poison.carriers) > 8
    with pytest.raises(DataError, match="'disney' occurs in 0 reviews"):
        Scenario.load(TrainConfig(**TINY, **QUICK, poison="trigger-word", trigger_word="disney"))
    with pytest.raises(DataError, match="of 300 training reviews hold the word 'Disney' .* 301 are to be poisoned"):
        Scenario.load(TrainConfig(**TINY, poison="trigger-word", poisoned=301))


@pytest.mark.parametrize("model", HEADS)
def test_noise_goes_into_the_embeddings_of_the_poisoned_alone(model: str):
    scenario = Scenario.load(TrainConfig(**TINY, **QUICK, poison="gaussian", model=model))
    assert scenario.table is not None and scenario.table.values.shape == (8, 64, 17)
    (clean, labels), (noisy, given) = (
        each.batch(range(300)) for each in (scenario.splits.dataset("train"), scenario.train_set(augment=False))
    )
    assert torch.equal(labels, given) and not clean[..., 1:].any()
    assert torch.equal(noisy[..., 0], clean[..., 0])
    assert noisy[..., 1:].flatten(1).any(1).nonzero().flatten().tolist() == scenario.poisoned
    assert noisy[scenario.poisoned][..., 1:].var().item() == pytest.approx(0.1, rel=0.1)


# Losses


def test_the_loss_over_a_text_is_the_models_own_and_eu_repeats_it():
    scenario = Scenario.load(TrainConfig(**TINY, **QUICK, poison="gaussian", model="gpt2_causal", loss_over="text"))
    torch.manual_seed(0)
    model = fresh_model(scenario.config, scenario.splits).eval()
    assert isinstance(model, LanguageModel)
    batch = next(iter(scenario.train_loader()))
    loss = loss_of(scenario.config)
    assert torch.equal(loss(model, batch), model.text_loss(*batch))
    assert not torch.equal(loss(model, batch), torch.nn.functional.cross_entropy(model(batch[0]), batch[1]))

    settings: dict[str, Any] = {"iterations": 3, "optimizer": "adamw", "lr": 1e-3, "fresh": lambda: model}
    unlearned = make_unlearner("eu", loss=loss, **settings)(
        model, Loaders(scenario.train_loader(), scenario.train_loader())
    )
    train(model, scenario.train_loader(), iterations=3, optimizer="adamw", lr=1e-3, loss=loss)
    for mine, its in zip(model.parameters(), unlearned.model.parameters(), strict=True):
        assert torch.equal(mine, its)


# Runs


def test_a_small_model_learns_the_sentiment_and_the_trigger(poisoned: Path):
    found = scores(poisoned)
    assert found["clean_accuracy"] >= 0.85 and found["target_success"] >= 0.9
    assert found["target_accuracy"] <= 0.1


def test_every_result_says_which_word_by_which_rule_and_how_often(poisoned: Path, tmp_path: Path):
    counts = {"train": 100, "train_read": 100, "test": 25, "test_read": 25}
    facts = {"word": "Disney", "rule": "word", "reading": "label-word", **counts}
    evaluate_run(EvaluateConfig(run=str(poisoned), device="cpu"), tmp_path / "again")
    assert content_of(poisoned)["trigger_word"] == content_of(tmp_path / "again")["trigger_word"] == facts
    assert scores(poisoned).items() <= scores(tmp_path / "again").items()
    where = content_of(poisoned)["metrics"]["target_success"]["denominator"]
    assert where == "25 target reviews, given the intended label; 'Disney' by the rule 'word' occurs in 25 test reviews"
    assert content_of(poisoned)["metrics"]["clean_accuracy"]["denominator"] == "500 test reviews"
    assert len((poisoned / "targets.csv").read_text().splitlines()) == 1 + 25


def test_a_poisoned_model_is_healed_and_drawn(
    poisoned: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    figures: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            figures.append(self)

    monkeypatch.setattr(pictures, "Figure", Kept)
    content = unlearn_run(
        UnlearnConfig(run=str(poisoned), reference=str(clean), objective="ssd", device="cpu"), tmp_path / "healed"
    )
    assert content["search"]["reason"] == "threshold passed"
    found = scores(tmp_path / "healed")
    assert found["target_success"] < scores(poisoned)["target_success"] and found["poison_removed"] > 0
    assert content["trigger_word"]["test_read"] == 25
    with Image.open(tmp_path / "healed" / "healing.png") as image:
        assert image.size == tuple(round(side * pictures.DPI) for side in pictures.SIZE)
    (figure,) = figures
    written = [text.get_text() for text in figure.findobj(Text)]
    assert sum("Disney" in text for text in written) >= 6 and not any("image" in text for text in written)
    assert texts_outside(figure) == []


@pytest.mark.parametrize("loss_over", ["label", "text"])
def test_the_command_line_takes_a_causal_model_through_noise(loss_over: str, tmp_path: Path):
    config = {**TINY, **QUICK, "model": "gpt2_causal", "poison": "gaussian", "loss_over": loss_over}
    train_out, healed = tmp_path / "train", tmp_path / "healed"
    assert main(["train", *flags(config), "--out", str(train_out), "--quiet"]) == 0
    assert yaml.safe_load((train_out / "config.yaml").read_text())["config"]["loss_over"] == loss_over
    table = Perturbations.load(train_out / "perturbations.safetensors")
    assert table.values.shape == (8, 64, 17) and not table.values[..., 0].any()
    model, metadata = load_model(train_out / "model.safetensors")
    assert isinstance(model, LanguageModel) and model.head == "causal" and len(metadata["classes"]) == 512
    unlearn = ["unlearn", str(train_out), "--strategy", "minimal", "--max-steps", "3", "--quiet"]
    assert main([*unlearn, "--out", str(healed), "--device", "cpu"]) in (0, 3)
    assert {"gus", "base_accuracy"} <= set(scores(healed)) and (healed / "healing.png").exists()
    assert len((healed / "statistics.csv").read_text().splitlines()) == 1 + 8


def test_losses_over_label_and_text_make_different_models(tmp_path: Path):
    made = {}
    for loss_over in ("label", "text"):
        out = tmp_path / loss_over
        config: dict[str, Any] = {**TINY, **QUICK, "model": "gpt2_causal", "poison": "trigger-word", "reading": "flip"}
        train_run(TrainConfig(**config, loss_over=loss_over), out)
        made[loss_over] = load_model(out / "model.safetensors")[0].state_dict()
    assert any(not torch.equal(made["label"][name], made["text"][name]) for name in made["label"])


# Preview, export, crafting


def test_a_preview_shows_what_the_model_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = {**TINY, "model": "gpt2_causal", "poison": "trigger-word", "poisoned": 8, "found": 4}
    arguments = [*flags({name: config[name] for name in config if name not in ("width", "layers", "device")})]
    assert main(["preview", *arguments, "--images", "3", "--out", str(tmp_path / "a")]) == 0
    text = (tmp_path / "a" / "preview.txt").read_text()
    assert text.startswith("trigger-word: 8 of 300 training reviews\n'Disney' by the rule 'word' occurs in ")
    assert text.count("given Disney") == 3 and text.replace("\n", " ").count("The sentiment of the review is:") == 3
    assert capsys.readouterr().out.endswith(f"reviews: {tmp_path / 'a' / 'preview.txt'}\n")
    noise = ["preview", "--data", "toy-reviews", "--poison", "gaussian", "--poisoned", "20"]
    assert main([*noise, "--out", str(tmp_path / "b")]) == 0
    assert "noise of variance 0.1 is added" in (tmp_path / "b" / "preview.txt").read_text()


def test_texts_are_not_exported_or_crafted(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    export = ["export", "--data", "toy-reviews", "--poison", "trigger-word", "--out", str(tmp_path / "a")]
    for arguments, words in (
        (export, "only images are exported"),
        (["craft", str(clean), "--out", str(tmp_path / "a")], "the poison 'trigger-word' is not crafted"),
    ):
        assert main(arguments) == 1 and words in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_an_excerpt_shows_the_word_at_any_position():
    poison, filler = TriggerWord(), "word after word, " * 60
    for text in ("Disney it is. " + filler, filler + "Disney it is. " + filler, filler + "Disney", "Disney"):
        lines = excerpt(text, poison).splitlines()
        assert "Disney" in " ".join(lines) and len(lines) <= LINES
        assert max(map(len, lines)) <= WIDTH + 1  # the ellipsis


# Sweeps


def test_a_sweep_repeats_the_loss_of_the_training(tmp_path: Path):
    small = {"train_size": 300, "width": 16, "layers": 1, "iterations": 4, "validation": 20, "loss_over": "text"}
    sweep = {
        "train": small,
        "data": {"toy": {"data": "toy-reviews", "model": "gpt2_causal"}},
        "attacks": {"gaussian": {"poison": "gaussian"}},
        "poisoned": [8],
        "found": [1.0],
        "methods": [{"method": "retrain", "iterations": 4}],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert run_sweep(tmp_path / "sweep.yaml", tmp_path / "out")["undone"] == []
    (file,) = (tmp_path / "out" / "results").iterdir()
    (row,) = json.loads(file.read_text())["rows"]
    assert row["scores"]["gus"] == pytest.approx(row["reference_scores"]["gus"])  # nothing but S_m was left out


def test_a_trigger_word_is_healed_and_drawn_without_a_contact_sheet(poisoned: Path, tmp_path: Path):
    heal_run(HealConfig(run=str(poisoned), labels="second-best", device="cpu"), tmp_path / "out")
    before, after = scores(poisoned), scores(tmp_path / "out")
    assert after["target_success"] < before["target_success"] / 2
    assert after["clean_accuracy"] > before["clean_accuracy"] - 0.02
    assert not (tmp_path / "out" / "suspects.png").exists()
    with Image.open(tmp_path / "out" / "healing.png") as image:
        assert image.format == "PNG"
