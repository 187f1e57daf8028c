"""Copy of a model that shares no weight and no state with it, also of models that copy.deepcopy refuses.

copy.deepcopy refuses tensors that autograd has computed, as layers keep them that have run (features, the weights of
weight_norm, spectral_norm and pruning), and what belongs to the process (locks, open files). It loses the gradient
hooks of parameters, and a function that was made around a layer goes on to call that layer in the copy.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import logging
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .memory import ran_out

Memo = dict[int, Any]  # id of an object -> what takes its place in the copy, as copy.deepcopy has it

IN_PLACE = "; heal the model itself, with inplace=True"  # advice where that can be asked for
CONTAINERS = (list, tuple, set, frozenset, deque)
LEAVES = (type, str, bytes, int, float, complex, FunctionType)  # not looked into
OF_THE_PROCESS = (ModuleType, threading.Thread, logging.Logger, logging.Handler)  # shared whole


def copy_model(model: nn.Module, advice: str = "") -> nn.Module:
    """A copy with weights, buffers, attributes and hooks of its own.

    Tensors that autograd has computed are copied without their history, views of a parameter as views of its copy.
    Locks, open files, streams and all else that has no copy and holds no tensor are shared. Parameters that were made
    under `torch.inference_mode` become ordinary ones.

    Args:
        model: Any nn.Module.
        advice: What to do if it cannot be copied, for the error.

    Raises:
        ModelError: It cannot be; the layer and its attribute are named.
    """
    with torch.inference_mode(False), torch.no_grad():
        memo: Memo = {}
        reached, owners = _reached(model)
        for value in reached:
            if isinstance(value, Tensor):
                if value.grad_fn is not None:
                    memo[id(value)] = _without_history(value, memo)
            elif _cannot_be_copied(value):
                _share(value, owners, memo)
        prepared = dict(memo)
        try:
            copied = copy.deepcopy(model, memo)
        except Exception as error:
            if ran_out(error):
                raise
            raise ModelError(f"the model cannot be copied, {_culprit(model, prepared)}: {error}{advice}") from error
        for value in reached:
            if isinstance(value, nn.Parameter) and id(value) in memo:
                _keep_hooks(value, memo[id(value)], memo)
        _rebind_functions(model, memo)
        for original, twin in zip(model.parameters(), copied.parameters(), strict=True):
            if twin.requires_grad != original.requires_grad:  # TorchScript forgets it
                twin.requires_grad_(original.requires_grad)
    return copied


def _reached(root: Any) -> tuple[list[Any], dict[int, Any]]:
    """Everything that a copy may have to copy, each once, and by its id the object among it that holds each."""
    found: dict[int, Any] = {}
    owners: dict[int, Any] = {}
    waiting: list[tuple[Any, Any]] = [(root, None)]
    while waiting:
        value, owner = waiting.pop()
        if id(value) in found or isinstance(value, LEAVES):
            continue
        found[id(value)], owners[id(value)] = value, owner
        for part in _parts(value):
            waiting.append((part, owner if isinstance(value, (dict, *CONTAINERS)) else value))
    return list(found.values()), owners


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, (Tensor, *OF_THE_PROCESS)):
        return ()
    parts = _attributes(value)
    if isinstance(value, dict):
        return [*parts, *value.keys(), *value.values()]
    if isinstance(value, CONTAINERS):
        return [*parts, *value]
    if isinstance(value, functools.partial):
        return [*parts, value.func, value.args, value.keywords]
    return [*parts, value.__self__] if isinstance(value, MethodType) else parts


def _attributes(value: Any) -> list[Any]:
    slots = [name for kind in type(value).__mro__ for name in _names(getattr(kind, "__slots__", ()))]
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, s) for s in slots if hasattr(value, s))]


def _names(slots: Any) -> Iterable[str]:
    return [slots] if isinstance(slots, str) else [name for name in slots if name not in ("__dict__", "__weakref__")]


def _without_history(tensor: Tensor, memo: Memo) -> Tensor:
    """A copy of a tensor that autograd has computed: as a view of a parameter's copy where it is one of a parameter."""
    base = tensor._base if tensor._is_view() else None
    if isinstance(base, nn.Parameter):
        copied = copy.deepcopy(base, memo)
        if copied.stride() == base.stride():
            offset = copied.storage_offset() + tensor.storage_offset() - base.storage_offset()
            with torch.enable_grad():
                return copied.as_strided(tensor.shape, tensor.stride(), offset)
    return tensor.detach().clone()


def _cannot_be_copied(value: Any) -> bool:
    """Whether an object belongs to the process and has no copy: a lock, an open file, a generator."""
    if isinstance(value, OF_THE_PROCESS):
        return True
    kind = type(value)
    if isinstance(value, (nn.Module, torch.ScriptObject, dict, *CONTAINERS)) or hasattr(value, "__deepcopy__"):
        return False
    if kind in copy._deepcopy_dispatch or kind in copyreg.dispatch_table:  # type: ignore[attr-defined]
        return False
    try:
        value.__reduce_ex__(4)
    except Exception:  # TypeError for most, RuntimeError for what other processes hold too
        return True
    return False


def _share(value: Any, owners: dict[int, Any], memo: Memo) -> None:
    """Share an object, and the objects around it that hold no tensor and no module: a queue with its lock."""
    while value is not None and not any(isinstance(part, (Tensor, nn.Module)) for part in _reached(value)[0]):
        memo[id(value)] = value
        value = owners[id(value)]


def _culprit(model: nn.Module, prepared: Memo) -> str:
    """The first attribute that has no copy, as part of a sentence."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute == "_modules":
                continue
            parts = value.items() if attribute in ("_parameters", "_buffers") else [(attribute, value)]
            for part, content in parts:
                try:
                    copy.deepcopy(content, dict(prepared))
                except Exception:
                    layer = f"its layer {name!r}" if name else "which itself"
                    return f"{layer} holds {part!r}, a {type(content).__name__}"
    return f"a {type(model).__name__}"


def _keep_hooks(original: nn.Parameter, copied: nn.Parameter, memo: Memo) -> None:
    """Give a parameter's copy the gradient hooks and the attributes that the parameter has."""
    for name, value in vars(original).items():
        vars(copied).setdefault(name, copy.deepcopy(value, memo))
    for hook in (original._backward_hooks or {}).values():
        copied.register_hook(hook)
    for hook in (original._post_accumulate_grad_hooks or {}).values():
        copied.register_post_accumulate_grad_hook(hook)


def _rebind_functions(model: nn.Module, memo: Memo) -> None:
    """Let functions that were made around parts of the model, and that its layers hold, use those of the copy."""
    rebound: dict[int, FunctionType] = {}
    for module in model.modules():
        own, twin = vars(module), vars(memo.get(id(module), module))
        hooks = [(value, twin.get(name)) for name, value in own.items() if isinstance(value, dict)]
        for original, copied in [(own, twin), *hooks]:
            if copied is original or not isinstance(copied, dict):
                continue
            for key, function in original.items():
                if isinstance(function, FunctionType) and copied.get(key) is function:
                    copied[key] = _rebound(function, memo, rebound)


def _rebound(value: Any, memo: Memo, rebound: dict[int, FunctionType]) -> Any:
    """The same, over the copies of what it closes over."""
    if id(value) in rebound:
        return rebound[id(value)]
    if not _holds_copied(value, memo):
        return value
    if not isinstance(value, FunctionType):
        return copy.deepcopy(value, memo)
    old = value.__closure__ or ()
    cells = tuple(CellType() if _holds_copied(cell, memo) else cell for cell in old)
    twin = rebound[id(value)] = FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
    for cell, own in zip(old, cells, strict=True):
        if own is not cell:
            own.cell_contents = _rebound(cell.cell_contents, memo, rebound)
    twin.__defaults__ = tuple(_rebound(default, memo, rebound) for default in value.__defaults__ or ()) or None
    keywords = value.__kwdefaults__ or {}
    twin.__kwdefaults__ = {name: _rebound(default, memo, rebound) for name, default in keywords.items()} or None
    twin.__qualname__, twin.__doc__ = value.__qualname__, value.__doc__
    vars(twin).update({name: _rebound(attribute, memo, rebound) for name, attribute in vars(value).items()})
    return twin


def _holds_copied(value: Any, memo: Memo, depth: int = 6) -> bool:
    """Whether a function, by what it closes over, reaches a module or a tensor that the copy has its own of."""
    if isinstance(value, (nn.Module, Tensor)):
        return memo.get(id(value), value) is not value
    parts: Iterable[Any] = ()
    if isinstance(value, FunctionType):
        parts = [*(value.__closure__ or ()), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    elif isinstance(value, CellType):
        with suppress(ValueError):  # not filled yet
            parts = [value.cell_contents]
    elif isinstance(value, MethodType):
        parts = [value.__self__]
    elif isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, (dict, *CONTAINERS)):
        parts = value.values() if isinstance(value, dict) else value
    return depth > 0 and any(_holds_copied(part, memo, depth - 1) for part in parts)
