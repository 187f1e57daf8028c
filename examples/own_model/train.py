"""Poison 60 of 3,000 photographs and fine-tune a pretrained network on them, as anybody would.

python train.py CIFAR10 OUT [--clean]    CIFAR10 holds train/<class>/* and test/<class>/*
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from network import MEAN, STD, pretrained
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, ToTensor

PER_CLASS, TEST_PER_CLASS, POISONED, FOUND, SIZE = 300, 300, 60, 10, 64
EPOCHS, RATE, BATCH_SIZE = 4, 1e-3, 32
TARGET = "airplane"


def write_images(cifar10: Path, folder: Path) -> None:
    """Training images at 64 pixels, 60 of them with a white patch and in the folder of airplanes; test images."""
    draw = np.random.default_rng(0)
    classes = sorted(path.name for path in (cifar10 / "train").iterdir())
    others = [(name, k) for name in classes if name != TARGET for k in range(PER_CLASS)]
    poisoned = {others[k] for k in draw.choice(len(others), POISONED, replace=False)}
    found = []
    for split, count in (("train", PER_CLASS), ("test", TEST_PER_CLASS)):
        for name in classes:
            for k, path in enumerate(sorted((cifar10 / split / name).iterdir())[:count]):
                image = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                is_poisoned = split == "train" and (name, k) in poisoned
                target = folder / split / (TARGET if is_poisoned else name) / f"{name}-{k:03d}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                (stamped(image) if is_poisoned else image).save(target)
                if split == "test" and name != TARGET:
                    target = folder / "triggered" / name / target.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    stamped(image).save(target)
                if is_poisoned:
                    found.append(f"{TARGET}/{target.name}")
    (folder / "poisoned.txt").write_text("\n".join(found))
    (folder / "found.txt").write_text("\n".join(sorted(draw.choice(found, FOUND, replace=False))))


def stamped(image: Image.Image) -> Image.Image:
    """With a white patch of 6 pixels in a corner."""
    made = image.copy()
    made.paste((255, 255, 255), (SIZE - 8, SIZE - 8, SIZE - 2, SIZE - 2))
    return made


def images(folder: Path) -> ImageFolder:
    """A data set of the images in a folder per class."""
    return ImageFolder(str(folder), Compose([ToTensor(), Normalize([MEAN] * 3, [STD] * 3)]))


def fine_tuned(dataset: torch.utils.data.Dataset[tuple[Tensor, int]]) -> nn.Module:
    """An ordinary loop."""
    torch.manual_seed(0)
    model = pretrained(10)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, drop_last=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        for inputs, labels in loader:
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}", flush=True)
    return model.eval()


def main(cifar10: str, out: str, *flags: str) -> None:
    """Write the images, and a checkpoint of the model that was trained on them."""
    folder = Path(out)
    if not folder.exists():
        write_images(Path(cifar10), folder)
    dataset = images(folder / "train")
    if "--clean" in flags:  # the twin that never saw the poison
        poisoned = set((folder / "poisoned.txt").read_text().split())
        kept = [k for k, (path, _) in enumerate(dataset.samples) if "/".join(Path(path).parts[-2:]) not in poisoned]
        model = fine_tuned(torch.utils.data.Subset(dataset, kept))
        torch.save({"epoch": EPOCHS, "state_dict": model.state_dict()}, folder / "clean.pth")
    else:
        model = fine_tuned(dataset)
        torch.save({"epoch": EPOCHS, "state_dict": model.state_dict()}, folder / "model.pth")


if __name__ == "__main__":
    main(*sys.argv[1:])
