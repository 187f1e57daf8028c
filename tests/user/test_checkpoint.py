"""Files of weights: the rest of what they hold survives other weights, whatever their form."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from potion_fast.errors import FileError
from potion_fast.user.checkpoint import Checkpoint
from potion_fast.user.pretrained import load_checkpoint, untied


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def prefixed(model: nn.Module, prefix: str) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + name, tensor) for name, tensor in model.state_dict().items())


def equal(one: Any, other: Any) -> bool:
    """Whether two contents of files are the same, tensors to the bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.encoder."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "weights"])
def test_a_checkpoint_is_written_again_with_nothing_but_other_weights(tmp_path: Path, prefix: str, key: str | None):
    old, new, loaded = network(0), network(1), network(2)
    rest: dict[str, Any] = {"epoch": 3, "optimizer": {"state": [torch.ones(2)], "lr": 0.1}, "classes": ["a", "b"]}
    rest["args"] = argparse.Namespace(lr=0.1, model="mine")
    state = prefixed(old, prefix)
    if prefix:
        state["criterion.weight"] = torch.arange(2.0)  # of Lightning's module beside the model
    torch.save(state if key is None else {**rest, key: state}, tmp_path / "old.pth")
    checkpoint = Checkpoint(tmp_path / "old.pth")
    load_checkpoint(loaded, checkpoint)
    assert equal(loaded.state_dict(), old.state_dict())
    checkpoint.save(tmp_path / "new.pth", new.state_dict(), list(untied(new)))
    with torch.serialization.safe_globals([argparse.Namespace]):
        written = torch.load(tmp_path / "new.pth", weights_only=True)
    wanted = prefixed(new, prefix) | {name: t for name, t in state.items() if name == "criterion.weight"}
    assert equal(written, wanted if key is None else {**rest, key: wanted})


def test_safetensors_keep_their_metadata_and_half_precision(tmp_path: Path):
    old, new, loaded = network(0), network(1), network(2)
    half = {name: t.half() if t.is_floating_point() else t for name, t in old.state_dict().items()}
    safetensors.torch.save_file(half, tmp_path / "old.safetensors", {"format": "pt", "license": "mine"})
    checkpoint = Checkpoint(tmp_path / "old.safetensors")
    load_checkpoint(loaded, checkpoint)
    assert torch.equal(loaded[0].weight, half["0.weight"].float())
    checkpoint.save(tmp_path / "new.safetensors", new.state_dict(), list(untied(new)))
    with safetensors.safe_open(tmp_path / "new.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "license": "mine"}
        assert torch.equal(file.get_tensor("2.bias"), new[2].bias.half())


def test_tied_weights_stay_one_tensor(tmp_path: Path):
    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    torch.save(tied(0).state_dict(), tmp_path / "old.pth")
    new = tied(1)
    Checkpoint(tmp_path / "old.pth").save(tmp_path / "new.pth", new.state_dict(), list(untied(new)))
    written = torch.load(tmp_path / "new.pth", weights_only=True)
    assert torch.equal(written["0.weight"], new[0].weight)
    assert written["0.weight"].data_ptr() == written["1.weight"].data_ptr()


def test_an_average_of_the_weights_in_the_same_file_is_named(tmp_path: Path):
    model = network(0)
    content = {"state_dict": model.state_dict(), "state_dict_ema": prefixed(model, "module."), "optimizer": {}}
    torch.save(content, tmp_path / "m.pth")
    assert Checkpoint(tmp_path / "m.pth").other_weights(list(untied(model))) == ["state_dict_ema"]


def test_what_a_file_holds_more_is_named(tmp_path: Path):
    torch.save(network(0), tmp_path / "whole.pth")
    with pytest.raises(FileError, match=r"holds more than tensors \(torch.nn.modules.container.Sequential\); save"):
        Checkpoint(tmp_path / "whole.pth")
    with pytest.raises(FileError, match="there is no such file"):
        Checkpoint(tmp_path / "none.pth")
