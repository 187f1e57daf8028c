"""The wall between library and bench: what the library imports, and that it works without the extras' packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import potion_fast

PACKAGE = Path(potion_fast.__file__).parent
BLOCKED = ("torchvision", "timm", "sklearn", "matplotlib", "yaml", "pydantic", "PIL", "transformers")

METHOD = """
import sys

sys.modules.update(dict.fromkeys(BLOCKED))  # as if they were not installed, for import and for importlib.util.find_spec

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import potion_fast as pf

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
images, labels = torch.randn(48, 1, 8, 8), torch.randint(3, (48,))
retain_loader = DataLoader(TensorDataset(images[8:], labels[8:]), batch_size=16)
forget_loader = DataLoader(TensorDataset(images[:8], labels[:8]), batch_size=8)

retain = pf.importance(model, retain_loader, "xlf", group_size=4)
forget = pf.importance(model, forget_loader, "xlf", group_size=4)
alphas = pf.thresholds(forget, retain, [99.0, 95.0])
with torch.no_grad():
    plan = pf.EditPlan(model, forget, retain, alphas)
    plan.apply(1)
    plan.reset()
result = pf.unlearn(model, retain_loader, forget_loader)
assert result.model is not model and result.reason

assert not [name for name in BLOCKED if sys.modules[name] is not None]
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("potion_fast.")}
assert "importances" in rooms and not rooms & {"bench", "user", "cli"}, rooms
print("healed")
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_library_works_without_the_packages_of_any_extra():
    done = run_python(f"BLOCKED = {BLOCKED!r}\n{METHOD}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "healed\n"


# --- who imports whom


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its dotted name, without the top-level kernels that a checkout links."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[1] != "kernels":
            yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(name: str, tree: ast.Module) -> Iterator[str]:
    """The modules, or the names in modules, that a module imports, wherever in it: absolute dotted names."""
    package = name.removesuffix(".__init__").split(".")
    if not name.endswith(".__init__"):
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def within(name: str, *rooms: str) -> bool:
    return any(f"{name}.".startswith(f"potion_fast.{room}.") for room in rooms)


@pytest.mark.parametrize(
    ("room", "importers"),
    [
        ("bench", ("bench", "cli")),
        ("user", ("user", "bench", "cli")),
        ("cli", ("cli",)),
    ],
)
def test_rooms_that_need_an_extra_are_imported_from_behind_the_wall_alone(room: str, importers: tuple[str, ...]):
    pairs = [(name, other) for name, tree in modules() for other in imported(name, tree) if within(other, room)]
    assert pairs  # of the room itself, at least
    assert [pair for pair in pairs if not within(pair[0], *importers)] == []


def test_all_imports_are_seen_by_these_tests():
    assert "potion_fast.bench.attacks.ATTACKS" in {
        other for name, tree in modules() if name == "potion_fast.bench.configs.train" for other in imported(name, tree)
    }
    source = "from ... import ops\nfrom ..user import schema\nfrom . import a\nimport potion_fast.bench as b\n"
    assert list(imported("potion_fast.cli.x.y", ast.parse(source))) == [
        "potion_fast.ops",
        "potion_fast.cli.user.schema",
        "potion_fast.cli.x.a",
        "potion_fast.bench",
    ]
