"""Broken inputs made from valid ones: bytes flipped, cut and spliced, and trees of JSON and YAML with odd values."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import yaml
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from potion_fast.utils.checksummed import with_checksum

INTERESTING = (0, 1, 0x22, 0x2C, 0x2D, 0x30, 0x39, 0x5B, 0x7B, 0x7F, 0x80, 0xC3, 0xED, 0xFF)
DEEP: Any = []
for _ in range(50):
    DEEP = [DEEP]
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    7,
    255,
    2**31,
    2**63,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "x",
    "0",
    "1e9",
    "nan",
    "\0",
    "\ud800",
    "é" * 50,
    "x" * 5000,
    "batch",
    "xlf",
    "badnet",
    "folder",
    "../../escaped",
    "/etc/passwd",
    "canary:make",
    "timm:resnet18",
    "timm:vit_tiny_patch16_224",
    "torchvision:vgg11",
    [],
    {},
    [[]],
    [0],
    [-1],
    [1, "x"],
    {"": None},
    {"value": float("nan")},
    DEEP,
]
YAML_PARTS = [
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object/apply:os.system ['touch escaped']",
    b"!!int ''",
    b"!!timestamp x",
    b"!!binary x",
    b"{",
    b"[",
    b"? ",
    b"- ",
    b"\t",
    b"%YAML 1.9\n---\n",
    b"|+\n",
    b"!!set ",
    b"=",
    b"1:2:3:4",
    b"\n",
    b": ",
    b"'",
    b'"',
    b"#",
    b"...\n",
    b"---\n",
    b"[" * 100,
    b"- " * 100,
]


def bomb(levels: int = 9) -> bytes:
    """A few hundred bytes of YAML that stand for 9^levels values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels + 1)]
    return "\n".join(lines).encode()


class Mutator(random.Random):
    """Draws broken inputs by a seed."""

    def bytes_of(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """One to three changes of a file's bytes."""
        for _ in range(self.choice((1, 1, 1, 2, 3))):
            data = self.changed(data, others)
        return data

    def changed(self, content: bytes, others: Sequence[bytes]) -> bytes:
        """One change of a file's bytes."""
        data = bytearray(content)
        start = self._place(data)
        stop = min(len(data), start + self.choice((1, 2, 4, 8, 64, 1000)))
        kind = self.randrange(7)
        if kind == 0:
            del data[start:]
        elif kind == 1:
            del data[start:stop]
        elif kind == 2:
            data[start:start] = data[start:stop]
        elif kind == 3:
            other = self.choice(others)
            place = self._place(other)
            data[start:stop] = other[place : place + self.choice((1, 8, 64, 1000))]
        elif kind == 4:
            data[start:stop] = bytes(self.choice(INTERESTING) for _ in range(stop - start))
        elif data:
            data[min(start, len(data) - 1)] ^= 1 << self.randrange(8)
        return bytes(data)

    def _place(self, data: Sequence[int]) -> int:
        """Anywhere; every other time near the beginning, where headers are."""
        return self.randrange(min(len(data), 64) + 1) if self.random() < 0.5 else self.randrange(len(data) + 1)

    def tree(self, value: Any) -> Any:
        """The same JSON or YAML values, with one to three of them odd, gone, doubled or moved."""
        value = _copied(value)
        for _ in range(self.choice((1, 1, 2, 3))):
            value = self._grown(value)
        return value

    def _grown(self, value: Any, depth: int = 0) -> Any:
        if not isinstance(value, (dict, list)) or not value or (self.random() < 0.25 and depth):
            return self._odd(value)
        key = self.choice(list(value)) if isinstance(value, dict) else self.randrange(len(value))
        kind = self.random()
        if kind < 0.1:
            del value[key]
        elif kind < 0.2 and isinstance(value, dict):
            value[self.choice(("x", "num_classes", "name", "pretrained", "", "depth", "layers", *value))] = self._odd(1)
        elif kind < 0.2:
            value += [_copied(value[key])]
        else:
            value[key] = self._grown(value[key], depth + 1)
        return value

    def _odd(self, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and self.random() < 0.3:
            return self.choice((value + 1, -value, value * 10**9, str(value), [value], 0.5))
        return _copied(self.choice(ODD))

    def yaml_of(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """A broken YAML text: its bytes, its values, or parts of YAML's grammar between them."""
        kind = self.random()
        if kind < 0.4:
            tree = self.tree(_yaml(data))
            if self.random() < 0.8:  # JSON is YAML, and ten times as fast to write
                return json.dumps(tree, ensure_ascii=self.random() < 0.5).encode(errors="surrogatepass")
            return yaml.safe_dump(tree, sort_keys=False).encode(errors="surrogatepass")
        if kind < 0.7:
            place = self.randrange(len(data) + 1)
            return data[:place] + self.choice(YAML_PARTS) + data[place:]
        return self.bytes_of(data, others)

    def json_of(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """A broken JSON text: its bytes or its values."""
        if self.random() < 0.6:
            return json.dumps(self.tree(json.loads(data))).encode()
        return b"[" * 100_000 if self.random() < 0.01 else self.bytes_of(data, others)

    def safetensors_of(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """A broken safetensors file: its bytes, its header, or a whole one, checksum and all, that says odd things."""
        kind = self.random()
        if kind < 0.35:
            return self.bytes_of(data, others)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        if kind < 0.5:
            text = json.dumps(self.tree(header)).encode()
            return len(text).to_bytes(8, "little") + text + data[8 + size :]
        if self.random() < 0.7:
            return self.resealed(data, lambda content, tensors: (self.tree(content), tensors))
        return self.resealed(data, lambda content, tensors: (content, self._tensors(tensors)))

    @staticmethod
    def resealed(data: bytes, change: Callable[[Any, dict[str, Tensor]], tuple[Any, dict[str, Tensor]]]) -> bytes:
        """A safetensors file with another content, and the checksum of that."""
        size = int.from_bytes(data[:8], "little")
        [(key, text)] = json.loads(data[8 : 8 + size])["__metadata__"].items()
        content, tensors = change(json.loads(text)["content"], load_bytes(data))
        return save_bytes(tensors, {key: with_checksum(content, tensors)})

    def _tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = self.choice(list(tensors))
        tensor = tensors.pop(name)
        kind = self.randrange(7)
        if kind == 0:
            tensors[name] = tensor.to(self.choice((torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8)))
        elif kind == 1:
            tensors[name] = tensor.reshape(-1)[: self.randrange(tensor.numel() + 1)].clone()
        elif kind == 2:
            tensors[name] = tensor.unsqueeze(0)
        elif kind == 3:
            tensors[self.choice(("", "x", "sums", "ids", name + "."))] = tensor
        elif kind == 4:
            tensors[name] = tensor.clone().fill_(self.choice((-1, 0, 2**40 if tensor.dtype == torch.int64 else 3)))
        elif kind == 5 and tensor.is_floating_point():
            tensors[name] = torch.full_like(tensor, self.choice((float("nan"), float("inf"), -1.0)))
        return tensors


@functools.cache
def _yaml(data: bytes) -> Any:
    return yaml.safe_load(data)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
