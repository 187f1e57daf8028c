"""State dicts from elsewhere: loaded, or refused without running what they hold."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from helpers.toys import assert_same_weights, weights
from potion_fast.bench.models import create_model
from potion_fast.errors import FileError, ModelError
from potion_fast.user.pretrained import load_weights


@pytest.mark.parametrize(
    "kind", ["safetensors", "pth", "state_dict", "model_state_dict", "model", "net", "module.", "both"]
)
def test_state_dicts_from_elsewhere_are_loaded(tmp_path: Path, kind: str):
    model, other = (create_model("small_cnn", 4, 1, width=2) for _ in range(2))
    path = tmp_path / ("m.safetensors" if kind == "safetensors" else "m.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        prefix = {"module.": "module.", "both": "module._orig_mod."}.get(kind, "")
        content: Any = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save(content if kind == "pth" or prefix else {kind: content, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    load_weights(other, path)
    assert_same_weights(other, weights(model))


@pytest.mark.parametrize("attribute", ["module", "model", "net"])
def test_a_model_whose_own_names_look_like_a_wrapper_is_loaded(tmp_path: Path, attribute: str):
    model, other = (torch.nn.Module() for _ in range(2))
    for made in (model, other):
        made.add_module(attribute, create_model("small_cnn", 4, 1, width=2))
    torch.save(model.state_dict(), tmp_path / "m.pth")
    load_weights(other, tmp_path / "m.pth")
    assert_same_weights(other, weights(model))


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_what_is_no_state_dict_is_refused_and_never_run(tmp_path: Path):
    model = create_model("small_cnn", 4, 1, width=2)
    before = weights(model)
    torch.save(model, tmp_path / "whole.pth")
    torch.save({"a": Malicious(tmp_path / "owned")}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "owned"), protocol=2))
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    torch.save({"a": 3}, tmp_path / "numbers.pth")
    torch.save(model.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-500])
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    (tmp_path / "empty.pth").touch()
    for name, message in [
        ("whole.pth", "more than tensors"), ("evil.pth", "more than tensors"), ("plain.pth", "more than tensors"),
        ("list.pth", "no state dict"), ("numbers.pth", "no state dict"), ("cut.pth", "cannot be read"),
        ("cut.safetensors", "cannot be read"), ("empty.pth", "cannot be read"), ("none.pth", "cannot be read"),
        ("none.safetensors", "cannot be read"),
    ]:  # fmt: skip
        with pytest.raises(FileError, match=message):
            load_weights(model, tmp_path / name)
    assert not (tmp_path / "owned").exists()
    torch.save(create_model("small_cnn", 5, 1, width=2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"classifier.weight is torch.float32 \[5, 16\].*\[4, 16\]"):
        load_weights(model, tmp_path / "other.pth")
    assert_same_weights(model, before)
