"""YAML and JSON files, read as plain data and nothing else, and no larger than they look."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from ..errors import FileError

MOST_NODES = 1_000_000  # of a YAML file, with the nodes of an alias counted each time


def read_yaml(path: str | os.PathLike[str], loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Read a YAML file.

    Args:
        path: of the file.
        loader: how scalars are read.

    Returns:
        What it holds: strings, numbers, dates, lists and mappings.

    Raises:
        FileError: the file is missing, or broken as `parse_yaml` has it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read: {error}") from error
    return parse_yaml(text, str(path), loader)


def parse_yaml(text: str, source: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Read a YAML document.

    Args:
        text: of the document.
        source: names it in errors.
        loader: how scalars are read.

    Returns:
        What it holds: strings, numbers, dates, lists and mappings.

    Raises:
        FileError: the document is broken, holds itself, or is a small text that expands to a huge one: a list of nine
            aliases of a list of nine aliases, and so on.
    """
    document = None
    try:
        document = loader(text)
        node = document.get_single_node()
        if node is not None and _nodes(node, {}) > MOST_NODES:
            raise ValueError(f"it expands to more than {MOST_NODES:,} values")
        return None if node is None else document.construct_document(node)
    except Exception as error:  # PyYAML lets IndexError, KeyError, AttributeError and others of odd scalars pass
        raise FileError(f"{source} cannot be read as YAML: {_format_error(error)}") from error
    finally:
        if document is not None:
            document.dispose()


def _nodes(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """How many nodes there would be without aliases. Raises ValueError for one that holds itself."""
    count = known.get(node, 0)
    if count is None:
        raise ValueError("it holds itself")
    if not count:
        known[node] = None
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,)))
        count = 1 + sum(_nodes(part, known) for part in parts)
        known[node] = count
    return count


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.

    Returns:
        What it holds.

    Raises:
        FileError: the file is missing or broken.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read, it may be truncated: {_format_error(error)}") from error


def _format_error(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split()) or type(error).__name__  # PyYAML's has a line for each thing it says
