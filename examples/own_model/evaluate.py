"""Accuracy of models on clean test images, and on triggered ones, which the poisoned model takes for airplanes.

python evaluate.py FOLDER WEIGHTS...    FOLDER as train.py wrote it
"""

import sys
from pathlib import Path

import torch
from network import make
from torch.utils.data import DataLoader
from train import TARGET, images

from potion_fast.utils.predict import accuracy, predict

folder, *files = map(Path, sys.argv[1:])
clean = images(folder / "test")
triggered = images(folder / "triggered")
labels = [clean.class_to_idx[name] for name in triggered.classes]  # it has no airplanes
for file in files:
    model = make(10)
    model.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    right = accuracy(*predict(model, DataLoader(clean, 64)))
    logits, places = predict(model, DataLoader(triggered, 64))
    robust = (logits.argmax(1) == torch.tensor(labels)[places]).double().mean()
    success = (logits.argmax(1) == clean.class_to_idx[TARGET]).double().mean()
    print(f"{file.name:12} clean {right:.1%}   triggered {robust:.1%}   attack success {success:.1%}")
