from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from potion_fast.bench.attacks import BadNet, option, register_attack, registry
from potion_fast.bench.attacks.poison import Poison
from potion_fast.bench.configs import resolved_device
from potion_fast.bench.runs import CraftConfig, EvaluateConfig, TrainConfig, UnlearnConfig
from potion_fast.errors import DataError, ModelError, PotionError
from potion_fast.user.flags import add_flags


def test_configurations_survive_their_file(tmp_path: Path):
    for written in (
        TrainConfig(mean=(0.1,), std=(1e-5,), lr=1, trigger_value=1.5),
        UnlearnConfig(run="a", group_size="batch", w=2.0),
        UnlearnConfig(run="a", group_size=3),
        EvaluateConfig(run="a", reference="b"),
        TrainConfig(poison="gradient-matching", epsilon=8, target_class=3, perturbations="a", training_seed=1000),
        TrainConfig(poison="gradient-canceling", placement="replace", nesterov=True, schedule="multistep"),
        CraftConfig(run="a", restarts=2, over="all", shift=0),
        CraftConfig(run="a", tolerance=0, budget=0.5, parameters="first", optimizer="adam", seed=3),
    ):
        read = type(written).from_dict(yaml.safe_load(yaml.safe_dump(written.to_dict())))
        assert read == written


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (TrainConfig, {"learning_rate": 1.0}, "unknown key 'learning_rate'"),
        (TrainConfig, {3: 1.0}, "unknown key 3"),
        (UnlearnConfig, {}, "lacks the key 'run'"),
        (UnlearnConfig, {"run": 3}, "run must be text, not 3"),
        (UnlearnConfig, {"run": "a", "group_size": "all"}, "group_size must be a whole number or 'batch', not 'all'"),
        (UnlearnConfig, {"run": "a", "group_size": 0}, "group_size must be at least 1"),
        (UnlearnConfig, {"run": "a", "rho": "0.2"}, "rho must be a number"),
        (UnlearnConfig, {"run": "a", "max_steps": 0}, "max_steps must be at least 1"),
        (TrainConfig, {"seed": -1}, "seed must be at least 0"),
        (TrainConfig, {"seed": 2**32}, "seed must be below"),
        (TrainConfig, {"seed": True}, "seed must be a whole number, not True"),
        (TrainConfig, {"batch_size": 0}, "batch_size must be at least 1"),
        (TrainConfig, {"iterations": 2.5}, "iterations must be a whole number"),
        (TrainConfig, {"lr": 0}, "lr must be above 0"),
        (TrainConfig, {"momentum": -0.1}, "momentum must be at least 0"),
        (TrainConfig, {"weight_decay": float("inf")}, "weight_decay must be finite"),
        (TrainConfig, {"trigger_value": float("nan")}, "trigger_value must be finite"),
        (TrainConfig, {"poison": "gaussian", "variance": 0.0}, "variance must be above 0"),
        (TrainConfig, {"poison": "gradient-matching", "epsilon": -1}, "epsilon must be above 0"),
        (TrainConfig, {"poison": "gradient-matching", "target_class": -1}, "target_class must be at least 0"),
        (TrainConfig, {"training_seed": 2**32}, "training_seed must be below"),
        (TrainConfig, {"schedule": "step"}, "schedule must be 'linear', 'constant', 'cosine' or 'multistep'"),
        (CraftConfig, {"run": "a", "restarts": 0}, "restarts must be at least 1"),
        (CraftConfig, {"run": "a", "budget": 0.0}, "budget must be above 0"),
        (CraftConfig, {"run": "a", "over": "some"}, "over must be 'batch' or 'all'"),
        (CraftConfig, {"run": "a", "target": 3}, "unknown key 'target'"),
    ],
)
def test_a_wrong_value_is_named(kind: Any, values: dict[Any, Any], words: str):
    with pytest.raises(PotionError, match=words):
        kind.from_dict(values)


def test_poisons_have_options_of_their_own():
    given = {
        name: {key for key, value in TrainConfig(poison=name, device="cpu").resolved().to_dict().items() if value}
        for name in ("badnet", "gaussian", "gradient-matching", "gradient-canceling")
    }
    options = {"patch_size", "variance", "epsilon", "target_class", "placement", "perturbations"}
    assert given["badnet"] & options == {"patch_size"}
    assert given["gaussian"] & options == {"variance"}
    assert given["gradient-matching"] & options == {"epsilon"}  # its classes are drawn with the data
    assert given["gradient-canceling"] & options == {"placement"}  # unbounded
    for name, given_option in (("gaussian", {"epsilon": 8.0}), ("badnet", {"variance": 0.1})):
        with pytest.raises(DataError, match=f"the poison '{name}' has no option {next(iter(given_option))}"):
            TrainConfig(poison=name, **given_option).resolved()


def test_the_seed_of_the_training_is_the_seed_unless_it_is_given():
    assert TrainConfig(seed=3, device="cpu").resolved().training_seed == 3
    assert TrainConfig(seed=3, training_seed=0, device="cpu").resolved().training_seed == 0


def test_nesterov_needs_momentum_of_sgd():
    for settings in ({"optimizer": "adamw"}, {"momentum": 0.0}):
        with pytest.raises(PotionError, match="nesterov needs SGD with momentum"):
            TrainConfig(nesterov=True, device="cpu", **settings).resolved()


def test_a_crafting_has_the_defaults_of_its_poison():
    matching = CraftConfig(run="a", device="cpu").resolved("gradient-matching")
    settings = {"steps": 250, "restarts": 8, "optimizer": "sign-adam", "over": "batch", "batch_size": 512}
    assert matching.settings == settings
    assert not {"budget", "parameters", "tolerance"} & set(matching.to_dict())
    canceling = CraftConfig(run="a", steps=5, device="cpu").resolved("gradient-canceling")
    settings = {"steps": 5, "lr": 0.1, "optimizer": "descent", "budget": 1.0, "batch_size": 512}
    assert canceling.settings == {**settings, "parameters": "all", "tolerance": 0.01}
    assert not {"restarts", "over", "shift"} & set(canceling.to_dict())
    with pytest.raises(DataError, match="'badnet' is not crafted; that can be: gradient-canceling, gradient-matching"):
        CraftConfig(run="a").resolved("badnet")


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    resolved = UnlearnConfig(run="a", root="~/data", forget="b/../c.txt", device="cpu").resolved()
    assert resolved.run == str(tmp_path / "a")
    assert resolved.root == "/home/me/data"
    assert resolved.forget == str(tmp_path / "c.txt")
    assert resolved.reference is None


def test_w_takes_the_place_of_the_objective():
    assert UnlearnConfig(run="a", device="cpu").resolved().objective == "xlf"
    assert UnlearnConfig(run="a", w=0.5, device="cpu").resolved().objective is None


def test_a_device_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolved_device(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda", "cuda", "cuda:1", "cpu"]
    with pytest.raises(ModelError, match="2 CUDA GPUs"):
        resolved_device("cuda:2")


# --- attacks


@pytest.fixture
def stamp() -> Iterator[type[Poison]]:
    """An attack of somebody else's, registered for one test."""

    class Stamp(BadNet):
        class Options(BadNet.Options):
            poison: Literal["stamp"] = "stamp"  # type: ignore[assignment]
            ink: float = option(0.5, "how much of it", metavar="SHARE", ge=0, le=1)

    yield register_attack("stamp")(Stamp)
    del registry.ATTACKS["stamp"]


def test_a_registered_attack_has_its_keys_and_flags(stamp: type[Poison]):
    config = TrainConfig.from_dict({"poison": "stamp", "ink": 0.25, "target": 3})
    assert config.attack == stamp.Options.from_dict({"ink": 0.25, "target": 3})
    assert TrainConfig.from_dict(config.to_dict()) == config
    with pytest.raises(DataError, match="ink must be at most 1, not 2"):
        config.updated(ink=2)
    with pytest.raises(DataError, match="the poison 'badnet' has no option ink; it has patch_size"):
        TrainConfig.from_dict({"ink": 0.25})

    parser = argparse.ArgumentParser()
    add_flags(parser, TrainConfig)
    text = " ".join(parser.format_help().split())
    assert "--ink SHARE stamp: how much of it (default: 0.5)" in text
    given = vars(parser.parse_args(["--poison", "stamp", "--ink", "0.25", "--target", "3"]))
    assert TrainConfig.from_flags(given) == config


def test_an_attack_that_is_not_imported_is_named_before_its_keys():
    with pytest.raises(DataError, match="unknown poison 'checkerboard'.*once its module is imported"):
        TrainConfig(poison="checkerboard", side=4)


def test_options_are_given_flat_or_as_the_attacks_own():
    options = BadNet.Options(target=3)
    config = TrainConfig(attack=options)
    assert config == TrainConfig.from_dict({"poison": "badnet", "target": 3})
    assert config.updated(corner="top-left").attack == BadNet.Options(target=3, corner="top-left")
    with pytest.raises(DataError, match="those of 'badnet', and the poison is 'gaussian'"):
        TrainConfig(poison="gaussian", attack=options)


def test_defaults_of_the_data_set_are_for_options_that_were_not_given():
    for values, size in (({}, 1), ({"data": "cifar10"}, 3), ({"data": "imagenette"}, 21), ({"patch_size": 2}, 2)):
        config = TrainConfig.from_dict({**values, "device": "cpu"})
        later = config.updated(leave_out_poisoned=True)  # knows what was given, and what was not
        assert config.resolved().to_dict()["patch_size"] == later.resolved().to_dict()["patch_size"] == size
