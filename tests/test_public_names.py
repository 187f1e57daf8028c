"""The names of the package itself: each is there, is imported when it is used, and costs nothing before."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import potion_fast


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_neither_torch_nor_any_of_its_modules():
    loaded = in_a_new_process(
        "import sys, potion_fast; assert potion_fast.__version__; dir(potion_fast)\n"
        "print([name for name in sys.modules if name in ('torch', 'numpy') or name.startswith('potion_fast.')])"
    )
    assert loaded == "['potion_fast.errors']\n"


def test_every_public_name_can_be_the_first_that_is_used():
    modules = ["distributed", "drop_in", "errors", "ops", "search"]
    code = (
        "import os, torch, potion_fast\n"
        f"for name in [*potion_fast.__all__, *{modules}]:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        assert name in dir(potion_fast)\n"
        "        getattr(potion_fast, name)\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0, name\n"
        "from potion_fast import *\n"
        "assert all(name in globals() for name in potion_fast.__all__)\n"
        "assert importance is potion_fast.importance is potion_fast.importances.importance\n"
        "assert torch.ops.potion_fast.dampen"
    )
    in_a_new_process(code)


def test_threads_may_use_the_first_names_at_once():
    code = (
        "import threading, potion_fast\n"
        "failed = []\n"
        "def use(name):\n"
        "    try:\n"
        "        getattr(potion_fast, name)\n"
        "    except BaseException as error:\n"
        "        failed.append(f'{name}: {error!r}')\n"
        "threads = [threading.Thread(target=use, args=(name,)) for name in potion_fast.__all__]\n"
        "for thread in threads:\n"
        "    thread.start()\n"
        "for thread in threads:\n"
        "    thread.join()\n"
        "print(failed)"
    )
    assert in_a_new_process(code) == "[]\n"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'potion_fast' has no attribute 'heel'"):
        _ = potion_fast.heel
    assert not hasattr(potion_fast, "__wrapped__")


def test_type_checkers_see_the_names_that_are_imported_when_used():
    tree = ast.parse(Path(potion_fast.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    imported = [alias.name for node in imports for alias in node.names]
    assert sorted(imported) == sorted(potion_fast.__all__)
    lazy = [name for names in potion_fast._NAMES.values() for name in names]
    assert [*lazy, "PotionError", "PotionWarning"] == potion_fast.__all__


def test_a_prompt_offers_public_names_only():
    offered = [name for name in dir(potion_fast) if not name.startswith("__")]
    assert {*potion_fast.__all__, *potion_fast._MODULES} < {*offered}
    assert not {"Any", "TYPE_CHECKING", "annotations", "import_module"} & {*offered}


def test_a_prompt_offers_what_the_bench_registers_with():
    import potion_fast.bench

    assert {*potion_fast.bench.__all__} <= {*dir(potion_fast.bench)}


def test_papers_are_cited_by_name() -> None:
    root = Path(potion_fast.__file__).parent
    texts = [path for path in root.rglob("*") if path.suffix in (".py", ".yaml", ".md")]
    letters = re.compile(r"\b[Pp]apers? [AB]\b")
    assert [path for path in texts if letters.search(path.read_text(encoding="utf-8"))] == []
