"""Registry of the unlearners by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ...errors import PotionError
from ...user.user_code import find_user_code
from ...utils.did_you_mean import did_you_mean
from .base import Unlearner

UNLEARNERS: dict[str, type[Unlearner]] = {}

AnyUnlearner = TypeVar("AnyUnlearner", bound=type[Unlearner])


def register_unlearner(name: str) -> Callable[[AnyUnlearner], AnyUnlearner]:
    """Class decorator that makes an unlearner known by a name, to `make_unlearner` and to the methods of a sweep.

    A module of `potion_fast.bench.unlearners` is imported with the package, so that its unlearners are always known.
    One of your own is known once its module is imported; a sweep imports it where the method is "module:Class".

    Args:
        name: the unlearner's name, kept as its attribute `name`.

    Returns:
        The decorator; it gives the class back.

    Raises:
        PotionError: the name is empty or taken by another class, or what is decorated is no subclass of `Unlearner`.
    """
    if not isinstance(name, str) or not name:
        raise PotionError(f"an unlearner is registered under a name, not {name!r}: @register_unlearner('my-unlearner')")

    def register(unlearner: AnyUnlearner) -> AnyUnlearner:
        if not (isinstance(unlearner, type) and issubclass(unlearner, Unlearner)):
            raise PotionError(f"{name!r} is no unlearner: derive its class from potion_fast.bench.unlearners.Unlearner")
        other = UNLEARNERS.get(name, unlearner)
        if _path(other) != _path(unlearner):  # the same class may be defined again, in a notebook
            raise PotionError(f"the name {name!r} is taken by {_path(other)}; choose another")
        unlearner.name = name
        UNLEARNERS[name] = unlearner
        return unlearner

    return register


def unlearner_class(name: str) -> type[Unlearner]:
    """The class of an unlearner.

    Args:
        name: a registered name, or "module:Class" of your own, which is imported and run: pass no name that somebody
            else wrote.

    Returns:
        The class. One of your own that is not registered is registered under this name.

    Raises:
        PotionError: an unknown name, or a class that is no unlearner.
    """
    if name in UNLEARNERS:
        return UNLEARNERS[name]
    if ":" not in name:
        known, meant = ", ".join(UNLEARNERS), did_you_mean(name, UNLEARNERS)
        raise PotionError(f"unknown unlearner {name!r}; known: {known} and module:Class{meant}")
    unlearner: Any = find_user_code(name, PotionError)
    if unlearner in UNLEARNERS.values():
        return unlearner
    return register_unlearner(name)(unlearner)


def make_unlearner(name: str, **settings: Any) -> Unlearner:
    """An unlearner with its settings.

    Args:
        name: a registered name, or "module:Class" of your own, see `unlearner_class`.
        settings: fields of its class.

    Returns:
        The unlearner.

    Raises:
        PotionError: an unknown name or setting, or a value of the wrong type or out of range.
    """
    return unlearner_class(name)(**settings)


def _path(unlearner: type[Unlearner]) -> str:
    return f"{unlearner.__module__}.{unlearner.__qualname__}"
