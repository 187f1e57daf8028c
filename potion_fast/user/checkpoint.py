"""Files of weights: read as tensors and nothing else, and written again with other weights in the same form."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import FileError
from ..utils.atomic_files import written_whole

STATE_DICTS = ("state_dict", "model_state_dict", "model", "net")  # keys of training programs
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".safetensors")
OWN_FILES = "potion_fast."  # begins a key in the metadata of files with a checksum of this package


class Checkpoint:
    """A file of `torch.save` or safetensors, and where in it the weights of a model are.

    Args:
        path: *.safetensors, or any other file of torch.save: a state dict, or a dict that holds one under "state_dict",
            "model_state_dict", "model", "net" or, where that is the only one, any other key.

    Attributes:
        path: of the file.
        content: all that it holds.
        state: the state dict in it, by the names of the file.

    Raises:
        FileError: the file is missing, truncated, holds no state dict, or more than plain values and tensors: such
            files can run code and are not read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.metadata: dict[str, str] | None = None
        self.content: Any = self._read()
        self.key = _state_dict_key(self.content)
        self.state: Mapping[str, Tensor] = self.content if self.key is None else self.content[self.key]
        if not _is_state_dict(self.state):
            raise FileError(f"{self.path} holds no state dict: a dictionary from names to tensors")

    def _read(self) -> Any:
        try:
            if self.path.suffix == ".safetensors":
                with safetensors.safe_open(self.path, "pt") as file:
                    self.metadata = file.metadata()
                return safetensors.torch.load_file(self.path)
            with torch.serialization.safe_globals([argparse.Namespace]):  # plain values: the options of a training
                return torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise FileError(f"{self.path} cannot be read as weights: there is no such file") from error
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = "" if found is None else f" ({found[1]})"
            raise FileError(
                f"{self.path} holds more than tensors{what}; save model.state_dict() instead of the model"
            ) from error
        except Exception as error:  # whatever a broken file leads torch to
            reason = " ".join(str(error).split()).partition(". ")[0]
            raise FileError(
                f"{self.path} cannot be read as weights ({reason}); it is missing, truncated or foreign"
            ) from error

    def prefix(self, names: Iterable[str]) -> str:
        """What stands before all names of a model in the file: what DataParallel, Lightning or torch.compile put there.

        Args:
            names: of the model's tensors.

        Returns:
            A prefix, empty where there is none under which the file has all of them.
        """
        return _prefix(self.state, list(names))

    def tensors(self, names: Iterable[str], dtypes: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
        """The weights by the names that the model has for them; entries that are none of the model's are left out.

        Args:
            names: of the model's tensors, each once.
            dtypes: of the model's: floating-point numbers of other precisions become these.
        """
        prefix = self.prefix(names)
        inside = {n.removeprefix(prefix): t for n, t in self.state.items() if n.startswith(prefix)}
        return {name: _like(tensor, dtypes.get(name)) for name, tensor in inside.items()}

    def other_weights(self, names: Iterable[str]) -> list[str]:
        """Keys of other state dicts of the same model in the file, an average of weights for one."""
        own = list(names)
        return [
            str(key)
            for key, value in (self.content.items() if self.key is not None else ())
            if key != self.key and _is_state_dict(value) and (own[0] in value or _prefix(value, own))
        ]

    def save(self, path: str | os.PathLike[str], weights: Mapping[str, Tensor], names: Iterable[str]) -> None:
        """Write the same file with other weights: names, prefixes, precisions and all else are as they were.

        Args:
            path: of the new file.
            weights: state dict of the model, with all its names.
            names: of its tensors, each once.

        Raises:
            FileError: it cannot be written.
        """
        prefix = self.prefix(names)
        state = copy.copy(self.state)  # of the same class, with what hangs on it
        made: dict[tuple[Any, ...], Tensor] = {}  # what is tied stays tied
        for name, old in self.state.items():
            new = weights.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if new is not None:
                tensor = made.setdefault((new.data_ptr(), new.shape, old.dtype), _saved(new, old))
                state[name] = nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor  # type: ignore[index]
        content: Any = state
        if self.key is not None:
            content = copy.copy(self.content)
            content[self.key] = state
        with written_whole(path) as temporary:
            if self.path.suffix == ".safetensors":
                safetensors.torch.save_file(dict(state), temporary, self.metadata)
            else:
                torch.save(content, temporary)

    @property
    def is_of_this_package(self) -> bool:
        """Whether the file is the model of a run folder of this package."""
        return any(key.startswith(OWN_FILES) for key in self.metadata or ())


def _state_dict_key(content: Any) -> Any:
    """Where in what was saved the state dict is; None: it is the whole."""
    if not isinstance(content, Mapping) or _is_state_dict(content):
        return None
    keys = [key for key in STATE_DICTS if isinstance(content.get(key), Mapping)]
    return next(iter([*keys, *(key for key, value in content.items() if _is_state_dict(value))]), None)


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(t, Tensor) for t in content.values())


def _prefix(state: Mapping[str, Tensor], names: list[str]) -> str:
    for prefix in ["", *_prefixes(state, names)]:
        if all(prefix + name in state for name in names):
            return prefix
    return ""


def _prefixes(state: Mapping[str, Tensor], names: list[str]) -> Iterator[str]:
    for name in state:
        if names and name.endswith("." + names[0]):
            yield name.removesuffix(names[0])


def _like(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is not None and dtype.is_floating_point and tensor.is_floating_point():
        return tensor.detach().to(dtype)
    return tensor.detach()


def _saved(new: Tensor, old: Tensor) -> Tensor:
    return new.detach().to(device="cpu", dtype=old.dtype).contiguous()
