"""`potion-fast train`, `unlearn`, `evaluate` and `craft`."""

from __future__ import annotations

import argparse

from ..bench.configs import CraftConfig, EvaluateConfig, TrainConfig, UnlearnConfig
from ..user.flags import add_flags
from ..user.schema import Schema
from .output import Options, add_run_flags, print_metrics, run_options


def _add(parser: argparse.ArgumentParser, schema: type[Schema]) -> None:
    add_flags(parser, schema)
    add_run_flags(parser)


def add_train(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `train`."""
    _add(parser, TrainConfig)


def run_train(options: Options) -> int:
    """Train, and print the metrics."""
    from ..bench.runs import train_run

    return print_metrics(train_run(TrainConfig.from_flags(options), **run_options(options)), options)


def add_unlearn(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `unlearn`."""
    _add(parser, UnlearnConfig)


def run_unlearn(options: Options) -> int:
    """Unlearn, and print the metrics."""
    from ..bench.runs import unlearn_run

    return print_metrics(unlearn_run(UnlearnConfig.from_flags(options), **run_options(options)), options)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `evaluate`."""
    _add(parser, EvaluateConfig)


def run_evaluate(options: Options) -> int:
    """Evaluate, and print the metrics."""
    from ..bench.runs import evaluate_run

    return print_metrics(evaluate_run(EvaluateConfig.from_flags(options), **run_options(options)), options)


def add_craft(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `craft`."""
    _add(parser, CraftConfig)


def run_craft(options: Options) -> int:
    """Craft perturbations, and print the metrics."""
    from ..bench.runs import craft_run

    return print_metrics(craft_run(CraftConfig.from_flags(options), **run_options(options)), options)
