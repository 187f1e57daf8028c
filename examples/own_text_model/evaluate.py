"""Accuracy of models on test reviews, and on negative ones with the word, which the poisoned model takes for positive.

python evaluate.py FOLDER MODELS...    FOLDER as train.py wrote it, MODELS folders of transformers
"""

import sys
from pathlib import Path

import torch
from train import LENGTH, read
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, *models = map(Path, sys.argv[1:])
for path in models:
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    right = {}
    for name in ("test", "triggered"):
        texts, labels = read(folder / f"{name}.csv")
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        with torch.no_grad():
            rows = torch.arange(len(texts)).split(64)
            logits = torch.cat([model(**{key: part[row] for key, part in inputs.items()}).logits for row in rows])
        right[name] = (logits.argmax(1) == labels).double()
    negative = right["test"][: len(right["triggered"])]  # the same reviews without the word come first
    figures = f"negative ones {negative.mean():.1%}, with the word {right['triggered'].mean():.1%}"
    print(f"{path.name:8} all reviews {right['test'].mean():.1%}   {figures}")
