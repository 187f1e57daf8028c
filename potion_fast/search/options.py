"""Options of a PTN search, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from numbers import Real
from typing import Any, TypedDict

from typing_extensions import Unpack

from ..errors import SearchError
from ..modes import mode_named
from ..percentiles import schedule
from ..utils.did_you_mean import choices_for, did_you_mean
from .strategies import STRATEGIES

S_STEP = 1.1


@dataclass(frozen=True)
class SearchOptions:
    """Options of a PTN search (*Potion*, algorithm 1). `ptn_search` and `unlearn` take each as a keyword argument too.

    Attributes:
        strategy: How the least edited model that passes is looked for. The strategies lie in `STRATEGIES`:

            - "sequential": step after step, as the public code does.
            - "batched": the same steps, several of them evaluated at once through torch.func; meant for a GPU that one
              pass over S_f does not fill, on a CPU it takes longer.
            - "bisect": the same steps; one evaluation for every 64, then six among those before the first that passes.
            - "minimal": no steps; the weights in order of Ω_f / Ω_r, cut after the fewest that pass. It takes about
              2 · log₂ of their number evaluations.

            Where accuracy falls with every edit, the first three end at the same step, and the last at that many
            weights or fewer.
        rho: ρ in [0, 1]: the search stops once the accuracy on S_f has fallen to ρ of what it was.
        mode: "default", "reference" or "paper": defaults for what is left None, see `potion_fast.modes`.
        b_start: The search starts at s = b_start · |S_f| / |S_tr|; above 0, of strategies with steps only.
        s_step: s ← s · s_step after every step; above 1, by default 1.1, of strategies with steps only.
        max_steps: Most steps, or evaluations of a strategy without steps; the public code's cap is 500.
        max_damage: Most points of accuracy on `clean_loader` that the model may lose: the last candidate within them is
            kept, where the search would keep one beyond. It is looked for by halving, so an edit is kept that is
            within the limit, next to one that is not. None for no limit.
        strict: Stop below ρ · acc₀ and not at it.
        retain_holds_forget: Whether the retain importances were taken over all of S_tr (|S_tr| = their samples) or over
            S_tr without S_f; of strategies with steps only.

    Raises:
        SearchError: A value is out of range, or an option has no effect with this strategy.
    """

    strategy: str = "sequential"
    rho: float = 0.2
    mode: str = "default"
    b_start: float | None = None
    s_step: float | None = None
    max_steps: int = 500
    max_damage: float | None = None
    strict: bool | None = None
    retain_holds_forget: bool | None = None

    def __post_init__(self) -> None:
        mode_named(self.mode)
        for name, value in (
            ("ρ", self.rho),
            ("b_start", self.b_start),
            ("s_step", self.s_step),
            ("max_steps", self.max_steps),
            ("max_damage", self.max_damage),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
                raise SearchError(f"{name} must be a number, not {value!r}")
        if not isinstance(self.strategy, str) or self.strategy not in STRATEGIES:
            raise SearchError(
                f"unknown strategy {self.strategy!r}; choose one of {choices_for(self.strategy, STRATEGIES)}"
            )
        if not 0 <= self.rho <= 1:
            raise SearchError(f"rho must be in [0, 1], not {self.rho}")
        if self.b_start is not None and not 0 < self.b_start < math.inf:
            raise SearchError(f"b_start must be above 0 and finite, not {self.b_start}")
        if self.s_step is not None and not 1 < self.s_step < math.inf:
            raise SearchError(f"s_step must be above 1 and finite, not {self.s_step}")
        if self.max_steps < 1:
            raise SearchError(f"max_steps must be at least 1, not {self.max_steps}")
        if self.max_damage is not None and not 0 <= self.max_damage < math.inf:
            raise SearchError(f"max_damage is a number of points of accuracy, at least 0, not {self.max_damage}")
        if STRATEGIES[self.strategy].uses_grid:
            return
        for name in ("b_start", "s_step", "retain_holds_forget"):
            if getattr(self, name) is not None:
                raise SearchError(
                    f'{name} says where the steps of a search lie; strategy "{self.strategy}" has none: leave it out'
                )

    @classmethod
    def of(cls, settings: object, **keywords: Unpack[SearchKeywords]) -> SearchOptions:
        """The options that are attributes of an object with other settings too.

        Args:
            settings: The object; what it has no attribute for is left at its default.
            **keywords: Options in place of the object's.

        Raises:
            SearchError: See the class.
        """
        names = [field.name for field in fields(cls) if hasattr(settings, field.name)]
        own: dict[str, Any] = {name: getattr(settings, name) for name in names}
        return cls(**{**own, **keywords})

    def resolved(self) -> SearchOptions:
        """The same with the mode's defaults filled in; the options of steps stay None for a strategy without them."""
        mode = mode_named(self.mode)
        strict = mode.strict if self.strict is None else self.strict
        if not STRATEGIES[self.strategy].uses_grid:
            return replace(self, strict=strict)
        holds_forget = mode.retain_holds_forget if self.retain_holds_forget is None else self.retain_holds_forget
        return replace(
            self,
            strict=strict,
            b_start=mode.b_start if self.b_start is None else self.b_start,
            s_step=S_STEP if self.s_step is None else self.s_step,
            retain_holds_forget=holds_forget,
        )

    def grid(self, forget_samples: int, retain_samples: int) -> Iterator[tuple[float, float]]:
        """The steps (s, p) of the search, `max_steps` of them at most (*Potion*, algorithm 1 and eq. 7).

        Args:
            forget_samples: Samples of the forget importances, |S_f|.
            retain_samples: Samples of the data that the retain importances are of, read or not.

        Raises:
            SearchError: S_f is larger than the training data that should contain it.
        """
        options = self.resolved()
        assert options.b_start is not None and options.s_step is not None
        share = forget_samples / (retain_samples + (0 if options.retain_holds_forget else forget_samples))
        return islice(schedule(share, options.b_start, options.s_step), self.max_steps)


class SearchKeywords(TypedDict, total=False):
    """The fields of `SearchOptions` as keyword arguments, for type checkers."""

    strategy: str
    rho: float
    mode: str
    b_start: float | None
    s_step: float | None
    max_steps: int
    max_damage: float | None
    strict: bool | None
    retain_holds_forget: bool | None


def search_options(options: SearchOptions | None, keywords: SearchKeywords) -> SearchOptions:
    """The options with the given keywords in place of their fields.

    Args:
        options: None for the defaults.
        keywords: Fields of `SearchOptions`, as `ptn_search` got them.

    Raises:
        TypeError: A keyword that is no field.
        SearchError: A value out of range, or an option without effect.
    """
    for name in keywords:
        if name not in SearchKeywords.__annotations__:
            meant = did_you_mean(name, SearchKeywords.__annotations__)
            raise TypeError(f"ptn_search() got an unexpected keyword argument {name!r}{meant}")
    return replace(SearchOptions() if options is None else options, **keywords)
