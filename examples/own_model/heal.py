"""The same healing in ten lines.

python heal.py FOLDER    as train.py wrote it; writes healed.pth there
"""

import sys
from pathlib import Path

import torch
from network import make
from train import images

import potion_fast as pf

folder = Path(sys.argv[1])
train_set = images(folder / "train")
names = ["/".join(Path(path).parts[-2:]) for path, _ in train_set.samples]
found = [names.index(line) for line in (folder / "found.txt").read_text().split()]
checkpoint = torch.load(folder / "model.pth", weights_only=True)
model = make(10)
model.load_state_dict(checkpoint["state_dict"])
result = pf.heal(model, train_set, found)
print(result)
checkpoint["state_dict"] = result.model.state_dict()
torch.save(checkpoint, folder / "healed.pth")
