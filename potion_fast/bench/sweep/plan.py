"""The plan of a sweep: its trainings, craftings, passes over the training data and unlearnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from ...errors import PotionError
from ...modes import GroupSize, mode_named
from ...search import STRATEGIES, SearchOptions
from ..attacks import attack_named
from ..configs import CraftConfig, TrainConfig
from .config import Size, SweepConfig, checked_size
from .method_spec import MethodSpec

TOGETHER = (("xlf", "lf"), ("ssd",))  # objectives that share a backward pass share a pass over the data
LONGEST = 200  # letters of a name
VICTIM = 1000  # added to the seed: a victim's initial weights are not those of the model it was attacked by


@dataclass(frozen=True)
class Training:
    """A model: poisoned, or the reference that was trained without S_m.

    Attributes:
        key: of the training.
        data, attack: their keys in the sweep.
        config: without the perturbations of a crafting: where they are is known when it is done.
    """

    key: str
    data: str
    attack: str
    config: TrainConfig


@dataclass(frozen=True)
class Crafting:
    """Perturbations for a poisoned training, crafted against the model of its clean one.

    Attributes:
        key: of the crafting.
        model: key of the clean training.
        settings: of `CraftConfig`, all but its `run`.
    """

    key: str
    model: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class RetainPass:
    """Ω_r of one model over S_tr without S_f, for every |S_f| in `founds`: several where they are `shared`.

    Attributes:
        model: key of the training.
    """

    key: str
    model: str
    objectives: tuple[str, ...]
    group_size: GroupSize
    founds: tuple[int, ...]
    shared: bool


@dataclass(frozen=True)
class Unlearning:
    """One S_f unlearnt from one model by one method; a search gives a row for every ρ and s_step.

    Attributes:
        model: key of the training.
        group_size: of the importances; None for a method that takes none.
    """

    key: str
    model: str
    found: int
    method: MethodSpec
    group_size: GroupSize | None


Task = Training | Crafting | RetainPass | Unlearning


@dataclass(frozen=True)
class SweepPlan:
    """All the work of a sweep, in an order in which it can be done."""

    trainings: dict[str, Training]
    craftings: dict[str, Crafting]
    passes: dict[str, RetainPass]
    unlearnings: dict[str, Unlearning]

    @property
    def tasks(self) -> list[Task]:
        """Model by model."""
        models = [key for key, training in self.trainings.items() if not training.config.leave_out_poisoned]
        tasks: list[Task] = []
        for key in models:
            crafting = self.crafting(self.trainings[key])
            tasks += [self.trainings[reference_of(key)], *([] if crafting is None else [crafting]), self.trainings[key]]
            tasks += [task for task in self.passes.values() if task.model == key]
            tasks += [task for task in self.unlearnings.values() if task.model == key]
        return tasks

    def needs(self, task: Task) -> list[Task]:
        """What must be done right before a task; it may have needs of its own."""
        if isinstance(task, Training):
            crafting = self.crafting(task)
            return [] if crafting is None else [crafting]
        if isinstance(task, Crafting):
            return [self.trainings[task.model]]
        models: list[Task] = [self.trainings[task.model], self.trainings[reference_of(task.model)]]
        retain = self.retain_pass(task) if isinstance(task, Unlearning) else None
        return models if retain is None else [*models, retain]

    def all_needs(self, task: Task) -> Iterator[Task]:
        """What must be done before a task, wherever in the chain; some of it several times."""
        for need in self.needs(task):
            yield from self.all_needs(need)
            yield need

    def part(self, units: Mapping[str, Unlearning]) -> SweepPlan:
        """What these unlearnings need."""
        needed = {task.key for unit in units.values() for task in self.all_needs(unit)}
        return SweepPlan(
            {key: task for key, task in self.trainings.items() if key in needed},
            {key: task for key, task in self.craftings.items() if key in needed},
            {key: task for key, task in self.passes.items() if key in needed},
            dict(units),
        )

    def crafting(self, of: Training) -> Crafting | None:
        """The crafting that gives a training its perturbations; None for one that takes none."""
        return self.craftings.get(crafted_for(of.key))

    def retain_pass(self, unit: Unlearning) -> RetainPass | None:
        """The pass that gives an unlearning its Ω_r; None for a method that takes none."""
        return self._retain.get((unit.model, unit.group_size, unit.found, unit.method.objective))

    def readers(self, of: RetainPass) -> list[Unlearning]:
        """The unlearnings that need what a pass gives."""
        return [unit for unit in self.unlearnings.values() if self.retain_pass(unit) == of]

    @cached_property
    def _retain(self) -> dict[tuple[Any, ...], RetainPass]:
        return {
            (retain_pass.model, retain_pass.group_size, found, objective): retain_pass
            for retain_pass in self.passes.values()
            for found, objective in product(retain_pass.founds, retain_pass.objectives)
        }


def make_plan(config: SweepConfig) -> SweepPlan:
    """Raises PotionError for settings that are wrong, or a scenario that does not fit its training."""
    methods = [method for entry in config.methods for method in MethodSpec.each(entry)]
    trainings: dict[str, Training] = {}
    craftings: dict[str, Crafting] = {}
    unlearnings: dict[str, Unlearning] = {}
    for data, attack, seed, poisoned in product(config.data, config.attacks, config.seeds, config.poisoned):
        founds = [samples(size, poisoned) for size in config.found]
        settings = {**config.train, **config.data[data], **config.attacks[attack]}
        craft = settings.pop("craft", None)
        settings |= {"poisoned": poisoned, "found": min(founds), "seed": seed}
        training = TrainConfig.from_dict(settings)
        iterations = training.resolved().iterations  # raises for what cannot be
        assert iterations is not None
        for method in methods:
            method.check(iterations)
        key = f"{data}_{attack}_{poisoned}_seed{seed}"
        clean = training.updated(leave_out_poisoned=True)
        if _is_crafted(attack, training, craft):
            craftings[crafted_for(key)] = Crafting(crafted_for(key), reference_of(key), craft)
            seeded = seed if training.training_seed is None else training.training_seed
            training = training.updated(training_seed=seeded + VICTIM)
        trainings[key] = Training(key, data, attack, training)
        trainings[reference_of(key)] = Training(reference_of(key), data, attack, clean)
        for unit in _unlearnings(config, methods, key, poisoned, founds):
            if len(unit.key) > LONGEST:
                raise PotionError(f"the name {unit.key!r} is too long for a file; give that method fewer settings")
            unlearnings[unit.key] = unit
    passes = {
        retain_pass.key: retain_pass for retain_pass in _passes(list(unlearnings.values()), shared=not config.augmented)
    }
    return SweepPlan(trainings, craftings, passes, unlearnings)


def reference_of(model: str) -> str:
    """Key of the training without S_m."""
    return f"{model}_clean"


def crafted_for(model: str) -> str:
    """Key of the crafting of its perturbations."""
    return f"{model}_crafted"


def samples(size: Size, poisoned: int) -> int:
    """|S_f| as a number of samples.

    Raises:
        PotionError: more than |S_m|, or none.
    """
    found = checked_size(size) if isinstance(size, int) else round(checked_size(size) * poisoned)
    if not 1 <= found <= poisoned:
        raise PotionError(f"found: {size} of {poisoned} poisoned samples would be {found}")
    return int(found)


def axes(config: SweepConfig, method: MethodSpec) -> tuple[list[float], list[float | None]]:
    """ρ and s_step of a method that searches: its own, where it has any. A search without steps has no s_step."""
    settings = method.settings
    rhos = [settings["rho"]] if "rho" in settings else config.rho
    s_steps = [settings["s_step"]] if "s_step" in settings else [*config.s_step]
    uses_grid = STRATEGIES[settings.get("strategy", SearchOptions.strategy)].uses_grid
    return rhos, s_steps if uses_grid else [None]


def _is_crafted(attack: str, training: TrainConfig, craft: object) -> bool:
    """Whether perturbations are crafted for an attack. Raises PotionError where that does not fit its poison."""
    given = training.perturbations is not None
    if craft is None:
        if attack_named(training.poison).Crafting is not None and not given:
            raise PotionError(f"attacks.{attack}: {training.poison!r} needs a mapping `craft` or `perturbations: FILE`")
        return False
    if given or not isinstance(craft, dict) or "run" in craft:
        raise PotionError(
            f"attacks.{attack}: craft must be a mapping of settings without `run`, and stands in place of "
            f"`perturbations`; it is {craft!r}"
        )
    CraftConfig.from_dict({**craft, "run": ""}).resolved(training.poison)  # raises for what cannot be
    return True


def _unlearnings(
    config: SweepConfig, methods: Sequence[MethodSpec], model: str, poisoned: int, founds: Sequence[int]
) -> Iterator[Unlearning]:
    for found, method in product(sorted(set(founds)), methods):
        if method.poisoned is not None and poisoned not in method.poisoned:
            continue
        if method.found is not None and found not in [samples(size, poisoned) for size in method.found]:
            continue
        key = f"{model}_found{found}_{method.label}"
        if method.objective is None:
            yield Unlearning(key, model, found, method, None)
            continue
        for group_size in config.group_sizes:
            m = mode_named(config.mode).group_size_for(found) if group_size is None else group_size
            yield Unlearning(f"{key}_m={m}", model, found, method, m)


def _passes(units: Sequence[Unlearning], shared: bool) -> Iterator[RetainPass]:
    """The fewest that serve all."""
    dampening = [unit for unit in units if unit.group_size is not None]
    for model, m in dict.fromkeys((unit.model, unit.group_size) for unit in dampening):
        assert m is not None
        for together in TOGETHER:
            of_group = [
                u for u in dampening if (u.model, u.group_size) == (model, m) and u.method.objective in together
            ]
            objectives = tuple(name for name in together if name in {unit.method.objective for unit in of_group})
            founds = tuple(sorted({unit.found for unit in of_group}))
            name = f"{model}_{'+'.join(objectives)}_m={m}"
            if shared and m != "batch" and founds:
                yield RetainPass(name, model, objectives, m, founds, len(founds) > 1)
            elif founds:
                for found in founds:
                    yield RetainPass(f"{name}_found{found}", model, objectives, m, (found,), False)
