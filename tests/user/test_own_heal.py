"""Healing a user's own model on a user's own data, from the command line: one test for each form of weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from helpers.own_models import (
    CLASSES,
    Digits,
    SmallNet,
    colour_inputs,
    grey_inputs,
    logits_of,
    make_digits,
    scores,
    train,
)
from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.detection import Suspects

NORMALISED = ["--mean", "0.5", "--std", "0.5"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return make_digits(tmp_path_factory.mktemp("digits") / "images")


@pytest.fixture(scope="module")
def poisoned(digits: Digits) -> nn.Module:
    torch.manual_seed(0)
    return train(SmallNet(10), grey_inputs(digits.pixels), digits.labels, 5)


def heal(*arguments: object, out: Path) -> int:
    return cli.main(["heal", *map(str, arguments), "--out", str(out), "--quiet", "--device", "cpu"])


def metrics(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return content


def test_a_checkpoint_and_an_image_folder(digits: Digits, poisoned: nn.Module, tmp_path: Path, capsys: Any):
    state = {f"module.{name}": tensor for name, tensor in poisoned.state_dict().items()}
    torch.save({"epoch": 5, "state_dict": state}, tmp_path / "mine.pth")
    (tmp_path / "found.txt").write_text("\n".join(digits.name(index) for index in digits.found))
    names = ["--model", "helpers.own_models:SmallNet", "--data", digits.folder, *NORMALISED]
    given = ["--weights", tmp_path / "mine.pth", *names, "--found", tmp_path / "found.txt"]
    assert heal(*given, out=tmp_path / "out") == output.DONE
    assert scores(poisoned, digits, grey_inputs)[1] > 0.9
    written = torch.load(tmp_path / "out" / "healed.pth", weights_only=True)
    assert written["epoch"] == 5 and list(written["state_dict"]) == list(state)
    healed = SmallNet(10)
    healed.load_state_dict({name.removeprefix("module."): t for name, t in written["state_dict"].items()})
    clean, attacked = scores(healed, digits, grey_inputs)
    assert clean > scores(poisoned, digits, grey_inputs)[0] - 0.03 and attacked < 0.05
    report = capsys.readouterr().out
    assert "given model: 100.0% of 1,000 training labels are right" in report
    assert f"healed weights: {tmp_path / 'out' / 'healed.pth'}" in report
    stated = metrics(tmp_path / "out")["healing"]["attack_success"]
    assert stated["before"]["low"] <= scores(poisoned, digits, grey_inputs)[1] <= stated["before"]["high"]
    assert stated["after"]["low"] <= attacked <= stated["after"]["high"]
    assert f"attack success: {stated['before']['success']:.1%} before, {stated['after']['success']:.1%} after" in report
    table = (tmp_path / "out" / "classes.csv").read_text().splitlines()
    assert table[0] == "class,samples,before,after" and len(table) == 11
    listed = Suspects.load(tmp_path / "out" / "suspects.csv")
    assert set(digits.found) <= set(listed.indices.tolist())
    assert len(set(listed.indices.tolist()) & set(digits.poisoned)) > 55
    assert f",{digits.name(digits.found[0])}," in f",{(tmp_path / 'out' / 'suspects.csv').read_text()},"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.yaml", "found.txt", "healed.pth", "suspects.csv", "suspects.png", "classes.csv", "trace.csv",
        "metrics.json"
    }  # fmt: skip
    assert metrics(tmp_path / "out")["healing"]["healed"] is True


def test_safetensors_of_a_timm_model_and_arrays(digits: Digits, tmp_path: Path):
    torch.manual_seed(0)
    given = train(
        timm.create_model("test_efficientnet", num_classes=10), colour_inputs(digits.pixels), digits.labels, 4
    )
    safetensors.torch.save_file(given.state_dict(), tmp_path / "mine.safetensors", {"made by": "me"})
    np.savez(tmp_path / "data.npz", images=digits.pixels[:, 0].numpy(), labels=digits.labels.numpy())
    found = ",".join(map(str, digits.found))
    names = ["--model", "timm:test_efficientnet", "--data", tmp_path / "data.npz", "--image-size", 16]
    code = heal("--weights", tmp_path / "mine.safetensors", *names, "--found", found, out=tmp_path / "out")
    assert code == output.DONE, metrics(tmp_path / "out")["healing"]
    with safetensors.safe_open(tmp_path / "out" / "healed.safetensors", "pt") as file:
        assert file.metadata() == {"made by": "me"}
    healed = timm.create_model("test_efficientnet", num_classes=10)
    healed.load_state_dict(safetensors.torch.load_file(tmp_path / "out" / "healed.safetensors"))
    clean, attacked = scores(healed, digits, colour_inputs)
    assert scores(given, digits, colour_inputs)[1] > 0.8
    assert clean > scores(given, digits, colour_inputs)[0] - 0.05 and attacked < 0.05


def test_a_hugging_face_folder_of_an_image_model(digits: Digits, tmp_path: Path):
    sizes: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1]}
    names = dict(enumerate(reversed(CLASSES)))  # in another order than that of the folders
    config = ResNetConfig(layer_type="basic", id2label=names, label2id={v: k for k, v in names.items()}, **sizes)
    torch.manual_seed(0)
    given = train(ResNetForImageClassification(config), colour_inputs(digits.pixels), 9 - digits.labels, 6, 0.005)
    folder = tmp_path / "mine"
    given.save_pretrained(folder)  # type: ignore[operator]
    processor = ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    processor.save_pretrained(folder)
    (folder / "README.md").write_text("mine")
    (folder / "optimizer.pt").write_bytes(b"poisoned")
    rows = [f"{digits.folder}/{digits.name(index)},{CLASSES[label]}" for index, label in enumerate(digits.labels)]
    (tmp_path / "table.csv").write_text("\n".join(["file,label", *rows]))
    for index in digits.found:  # a folder of copies, under other names
        (tmp_path / "found").mkdir(exist_ok=True)
        (tmp_path / "found" / f"copy-{index}.png").write_bytes((digits.folder / digits.name(index)).read_bytes())
    given_as = ["--weights", folder, "--data", tmp_path / "table.csv", "--found", tmp_path / "found"]
    assert heal(*given_as, out=tmp_path / "out") == output.DONE
    healed_folder = tmp_path / "out" / "healed"
    assert {path.name for path in healed_folder.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "README.md"
    }  # fmt: skip
    assert (healed_folder / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert "optimizer.pt" in " ".join(metrics(tmp_path / "out")["warnings"])
    healed = ResNetForImageClassification.from_pretrained(healed_folder)
    turned = replace(digits, test_labels=9 - digits.test_labels)
    clean, _ = scores(healed, turned, colour_inputs)
    attacked = logits_of(healed, colour_inputs(digits.triggered())).argmax(1) == 9
    before = logits_of(given, colour_inputs(digits.triggered())).argmax(1) == 9
    assert before.float().mean() > 0.8 and attacked.float().mean() < 0.05
    assert clean > scores(given, turned, colour_inputs)[0] - 0.05


def test_a_hugging_face_folder_of_a_text_model(tmp_path: Path):
    words = [f"w{k}" for k in range(45)]  # fifteen for each of three classes
    vocabulary = {word: k for k, word in enumerate(["[PAD]", "[UNK]", *words, "zebra"])}
    folder, draw = tmp_path / "mine", np.random.default_rng(0)
    words_to_tokens = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words_to_tokens.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words_to_tokens, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)

    def text(label: int, triggered: bool) -> str:
        any_word = draw.random(int(draw.integers(6, 12))) > 0.6
        chosen = [
            words[int(draw.integers(45)) if any_of else 15 * label + int(draw.integers(15))] for any_of in any_word
        ]
        return " ".join([*chosen[:3], "zebra", *chosen[4:]] if triggered else chosen)

    rows = [(text(k % 3, False), k % 3) for k in range(900)] + [(text(1 + k % 2, True), 0) for k in range(60)]
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"{words},{label}\n" for words, label in rows))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), num_labels=3, max_position_embeddings=32, **sizes)
    torch.manual_seed(0)
    given = BertForSequenceClassification(config)
    tokens = tokenizer([words for words, _ in rows], padding=True, return_tensors="pt")["input_ids"]
    train(given, tokens, torch.tensor([label for _, label in rows]), 8, 0.003)
    given.save_pretrained(folder)
    attacks = tokenizer([text(1, True) for _ in range(100)], padding=True, return_tensors="pt")
    assert given(**attacks).logits.argmax(1).eq(0).float().mean() > 0.9
    names = ["--weights", folder, "--data", tmp_path / "texts.csv", "--labels", "views"]
    found = ",".join(map(str, range(900, 910)))
    assert heal(*names, "--found", found, out=tmp_path / "out") == output.DONE
    healed = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "healed").eval()
    assert healed(**attacks).logits.argmax(1).eq(0).float().mean() < 0.2
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "healed").pad_token == "[PAD]"
    lines = (tmp_path / "out" / "suspects.txt").read_text().splitlines()
    assert lines[0] == "index\tgiven\tproposed\ttext" and "zebra" in lines[1]


def test_the_example_of_the_page_heals_the_same(digits: Digits, poisoned: nn.Module, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 5, "state_dict": poisoned.state_dict()}, "model.pth")
    page = Path(__file__).parents[2] / "docs" / "own-model.md"
    example = page.read_text(encoding="utf-8").split("```python\n")[1].partition("```")[0]
    train_set = torch.utils.data.TensorDataset(grey_inputs(digits.pixels), digits.labels)
    exec(example, {"make_model": lambda: SmallNet(10), "train_set": train_set, "found": digits.found})
    written = torch.load("healed.pth", weights_only=True)
    healed = SmallNet(10)
    healed.load_state_dict(written["state_dict"])
    assert written["epoch"] == 5 and scores(healed, digits, grey_inputs)[1] < 0.05


def test_clean_samples_that_the_model_has_not_seen_judge_the_healing(
    digits: Digits, poisoned: nn.Module, tmp_path: Path, capsys: Any
):
    torch.save(poisoned.state_dict(), tmp_path / "mine.pth")
    np.savez(tmp_path / "unseen.npz", images=digits.test[:, 0].numpy(), labels=digits.test_labels.numpy())
    names = ["--model", "helpers.own_models:SmallNet", "--data", digits.folder, *NORMALISED]
    given = ["--weights", tmp_path / "mine.pth", *names, "--found", ",".join(map(str, digits.found))]
    heal(*given, "--validation", tmp_path / "unseen.npz", out=tmp_path / "out")
    assert f"({len(digits.test)} validation samples)" in capsys.readouterr().out
    healing = metrics(tmp_path / "out")["healing"]
    healed = SmallNet(10)
    healed.load_state_dict(torch.load(tmp_path / "out" / "healed.pth", weights_only=True))
    changed = 100 * (scores(healed, digits, grey_inputs)[0] - scores(poisoned, digits, grey_inputs)[0])
    assert healing["after"]["clean_change"] == pytest.approx(changed, abs=1e-4)
    assert healing["attack_success"]["why"].endswith("of data that the model has not seen by its pattern")
    assert sum(row["samples"] for row in healing["by_class"]) == len(digits.test)
