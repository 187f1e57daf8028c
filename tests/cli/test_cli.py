from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import potion_fast
from potion_fast import unlearning
from potion_fast.bench import configs as config
from potion_fast.bench import runs
from potion_fast.bench.runs import CraftConfig, EvaluateConfig, HealConfig, TrainConfig, UnlearnConfig, evaluations
from potion_fast.bench.runs import demo as demo_run
from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.user.schema import Schema

pytest_plugins = ["helpers.small_runs"]

SCHEMAS: dict[str, type[Schema]] = {
    "train": TrainConfig,
    "heal": HealConfig,
    "unlearn": UnlearnConfig,
    "evaluate": EvaluateConfig,
    "craft": CraftConfig,
}
TINY = ["--train-size", "500", "--width", "4", "--iterations", "30", "--patch-size", "3", "--device", "cpu", "--quiet"]


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def exit_code(content: dict[str, Any]) -> int:
    reason = content.get("search", {}).get("reason", "threshold passed")
    healed = content.get("healing", {}).get("healed", True)
    return 0 if reason == "threshold passed" and healed else 3


def commands() -> dict[str, argparse.ArgumentParser]:
    return {name: parser_of(name) for name in cli.COMMANDS}


def parser_of(name: str) -> argparse.ArgumentParser:
    (action,) = (action for action in cli.parser(name)._actions if isinstance(action, argparse._SubParsersAction))
    parser: argparse.ArgumentParser = action.choices[name]
    return parser


# --- what --help says


def test_every_argument_of_every_command_is_explained():
    for name, command in commands().items():
        for action in command._actions:
            assert action.help, (name, action.dest)
        assert "3 done, but the search ended" in command.format_help().replace("\n", " ")


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_of_a_configuration_has_its_flag_that_names_the_default(name: str):
    actions = {action.dest: action for action in parser_of(name)._actions}
    assert set(SCHEMAS[name].keys()) <= set(actions)
    for key, field in SCHEMAS[name].flag_fields().items():
        action = actions[key]
        assert action.default is argparse.SUPPRESS or action.required  # not given: the configuration's own
        if action.nargs == 0:  # it is given or not
            assert "(default: " not in action.help
        elif field.default is None:
            assert "(default: " in action.help
            assert "None" not in action.help
        elif not isinstance(field.default, bool) and action.option_strings:
            assert f"(default: {field.default})" in action.help


def test_help_names_the_defaults_of_each_data_set_and_the_units():
    text = " ".join(parser_of("train").format_help().split())
    for data, defaults in config.DATA_DEFAULTS.items():
        assert all(f"{data} {value}" in text for value in defaults.values())
    assert "--patch-size PIXELS" in text
    assert "in units of the normalised image" in text
    assert "in [0, 1]" in parser_of("unlearn").format_help().replace("\n", " ")


def test_no_flags_give_the_configuration_its_own_defaults(monkeypatch: pytest.MonkeyPatch):
    calls: list[Any] = []
    for name in ("train_run", "heal_run", "unlearn_run", "evaluate_run"):
        monkeypatch.setattr(
            runs, name, lambda config, **options: calls.append(config) or {"metrics": {}, "warnings": []}
        )
    for arguments in (["train"], ["heal", "a"], ["unlearn", "a"], ["evaluate", "a"]):
        assert cli.main([*arguments, "--out", "out"]) == 0
    assert calls == [TrainConfig(), HealConfig(run="a"), UnlearnConfig(run="a"), EvaluateConfig(run="a")]


def test_flags_arrive_with_their_types(monkeypatch: pytest.MonkeyPatch):
    calls: list[Any] = []
    monkeypatch.setattr(
        runs,
        "unlearn_run",
        lambda config, **options: calls.append((config, options)) or {"metrics": {}, "warnings": []},
    )
    flags = "--group-size batch --rho 0.5 --max-steps 3 --curve --w 2 --batch-size 8 --out o --overwrite --quiet"
    cli.main(["unlearn", "a", *flags.split()])
    cli.main(["unlearn", "a", "--group-size", "4", "--out", "o"])
    expected = UnlearnConfig(run="a", group_size="batch", rho=0.5, max_steps=3, curve=True, w=2.0, batch_size=8)
    assert calls[0] == (expected, {"out": "o", "overwrite": True, "progress": False})
    assert calls[1] == (UnlearnConfig(run="a", group_size=4), {"out": "o", "overwrite": False, "progress": True})


# --- what the commands do


def test_train_heal_unlearn_and_evaluate_print_strict_json_alone_on_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    trained, clean, healed, again, cured = (
        str(tmp_path / name) for name in ("trained", "clean", "healed", "again", "cured")
    )
    bars = [flag for flag in TINY if flag != "--quiet"]
    for arguments, out in (
        (["train", *bars], trained),
        (["train", *bars, "--leave-out-poisoned"], clean),
        (["unlearn", trained, "--reference", clean, "--device", "cpu"], healed),
        (["evaluate", healed, "--reference", clean, "--device", "cpu"], again),
        (["heal", trained, "--reference", clean, "--dampened", healed, "--device", "cpu"], cured),
    ):
        code = cli.main([*arguments, "--out", out, "--json"])
        printed = capsys.readouterr()
        content = strict(printed.out)
        assert content == strict(Path(out, "metrics.json").read_text())
        assert code == exit_code(content)
    scores = [strict(Path(out, "metrics.json").read_text())["metrics"] for out in (healed, again)]
    values = [{name: metric["value"] for name, metric in score.items()} for score in scores]
    assert values[0] == values[1]


@pytest.mark.parametrize("mode", ["reference", "paper"])
def test_both_other_modes_run_from_end_to_end(tmp_path: Path, mode: str):
    trained, healed = str(tmp_path / "trained"), tmp_path / "healed"
    assert cli.main(["train", *TINY, "--mode", mode, "--out", trained]) == output.DONE
    code = cli.main(
        ["unlearn", trained, "--mode", mode, "--max-steps", "40", "--device", "cpu", "--quiet", "--out", str(healed)]
    )
    content = strict((healed / "metrics.json").read_text())
    assert code == exit_code(content)
    assert content["search"]["mode"] == mode
    assert content["search"]["group_size"] == {"reference": "batch", "paper": 1}[mode]


def test_the_report_is_read_by_people(poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["evaluate", str(poisoned), "--device", "cpu", "--quiet", "--out", str(tmp_path)]) == output.DONE
    printed = capsys.readouterr()
    accuracy = strict((tmp_path / "metrics.json").read_text())["metrics"]["clean_accuracy"]["value"]
    assert f"{100 * accuracy:.2f} %   ideal 100.00 %; 359 clean images" in printed.out
    assert "0.00 percentage points   ideal 0.00 percentage points; difference to clean accuracy" in printed.out
    assert printed.out.splitlines()[-1] == f"run folder: {tmp_path}"
    assert printed.err == ""


def test_a_search_that_ends_early_has_its_own_exit_code(
    poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["unlearn", str(poisoned), "--max-steps", "1", "--device", "cpu", "--quiet"]
    assert cli.main([*arguments, "--out", str(tmp_path / "a")]) == output.NOT_HEALED
    printed = capsys.readouterr().out
    assert "search: out of steps after 1 steps" in printed
    assert "note: the search ended out of steps" in printed
    assert cli.main([*arguments, "--json", "--out", str(tmp_path / "b")]) == output.NOT_HEALED


def test_a_healing_says_what_it_found_and_whether_the_model_is_healed(
    poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    code = cli.main(["heal", str(poisoned), "--labels", "second-best", "--device", "cpu", "--quiet", "--out", str(out)])
    content, printed = strict((out / "metrics.json").read_text()), capsys.readouterr().out
    assert code == exit_code(content)
    suspects, healing = content["suspects"], content["healing"]
    assert f"suspects: {suspects['suspects']}, among them {suspects['hidden_suspects']} of the 48 poisoned" in printed
    assert f"labels: second-best; {suspects['labels_right']} of {suspects['labelled']} are right" in printed
    assert f"healing: {healing['reason']}, at the cost of {healing['epochs']:.2f} epochs" in printed
    assert all(f"note: {note}" in printed for note in content["warnings"])


def test_a_model_that_is_not_healed_has_its_own_exit_code():
    content: dict[str, Any] = {"healing": {"healed": False}}
    assert output.exit_code(content) == output.NOT_HEALED
    assert output.exit_code({"healing": {"healed": True}}) == output.DONE


def test_numbers_that_are_not_finite_are_null(
    poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluations, "model_damage", lambda after, before: float("nan"))
    arguments = ["evaluate", str(poisoned), "--device", "cpu", "--quiet"]
    assert cli.main([*arguments, "--json", "--out", str(tmp_path / "a")]) == output.DONE
    assert strict(capsys.readouterr().out)["metrics"]["model_damage"]["value"] is None
    assert cli.main([*arguments, "--out", str(tmp_path / "b")]) == output.DONE
    assert "not finite" in capsys.readouterr().out


def test_the_demo_prints_its_lines_or_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    calls: list[dict[str, Any]] = []
    reasons = ["threshold passed", "saturated"]

    def stub(say: Any, **options: Any) -> dict[str, Any]:
        say("a line for a reader")
        calls.append(options)
        return {"seeds": [{"after": {"search": {"reason": reason}}} for reason in reasons]}

    monkeypatch.setattr(demo_run, "demo", stub)
    assert cli.main(["demo", "--seeds", "3", "1", "--quiet", "--out", "o"]) == output.NOT_HEALED
    assert capsys.readouterr().out == "a line for a reader\n"
    reasons.pop()
    assert cli.main(["demo", "--json", "--overwrite", "--out", "o"]) == output.DONE
    assert len(strict(capsys.readouterr().out)["seeds"]) == 1
    assert calls == [
        {"seeds": [3, 1], "out": "o", "overwrite": False, "progress": False},
        {"seeds": [0], "out": "o", "overwrite": True, "progress": True},
    ]


def test_doctor_prints_text_or_json(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["doctor"]) == output.DONE
    assert "backends" in capsys.readouterr().out
    assert cli.main(["doctor", "--json"]) == output.DONE
    assert "backends" in strict(capsys.readouterr().out)


# --- what goes wrong


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--model vgg", "unknown model 'vgg'"),
        ("--poison sine", "unknown poison 'sine'"),
        ("--width -4", "width must be at least 1"),
        ("--iterations 0", "iterations must be at least 1"),
        ("--batch-size 0", "--batch-size must be at least 1"),
        ("--train-size -1", "--train-size must be at least 1"),
        ("--poisoned -3", "poisoned must be at least 1"),
        ("--lr nan", "lr must be finite"),
        ("--seed -1", "seed must be at least 0"),
        ("--workers -1", "workers must be at least 0"),
        ("--data folder --root /nowhere", "/nowhere"),
        ("--device tpu", "unknown device"),
    ],
)
def test_bad_training_flags_are_an_error_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, words: str
):
    assert cli.main(["train", *flags.split(), "--json", "--out", str(tmp_path / "out")]) == output.FAILED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("potion-fast train: error: ")
    assert words in printed.err
    assert not (tmp_path / "out").exists()


def test_bad_runs_and_forget_sets_are_an_error_and_no_traceback(
    poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty.txt").write_text("# none\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    out = str(tmp_path / "out")
    for arguments, words in (
        (["unlearn", str(tmp_path), "--out", out], "is not a run folder"),
        (["unlearn", "a" * 300, "--out", out], "cannot be read"),
        (["evaluate", str(tmp_path / "missing"), "--out", out], "is not a run folder"),
        (["unlearn", str(poisoned), "--forget", str(tmp_path / "empty.txt"), "--out", out], "holds no index"),
        (["unlearn", str(poisoned), "--objective", "fisher", "--out", out], "unknown objective"),
        (["unlearn", str(poisoned), "--reference", str(poisoned), "--out", out], "leave-out-poisoned"),
        (["unlearn", str(poisoned), "--out", str(tmp_path / "taken")], "already there"),
        (["unlearn", str(poisoned), "--out", str(poisoned), "--overwrite"], "read by this run"),
        (["heal", str(poisoned), "--rate", "0", "--out", out], "--rate must be above 0"),
        (["heal", str(poisoned), "--max-damage", "-1", "--out", out], "--max-damage must be at least 0"),
        (["demo", "--seeds", "1", "1", "--out", out], "each one once"),
    ):
        assert cli.main(arguments) == output.FAILED
        error = capsys.readouterr().err
        assert error.startswith(f"potion-fast {arguments[0]}: error: ")
        assert words in error
        assert not Path(out).exists()


def test_a_wrong_value_in_config_yaml_is_an_error_and_no_traceback(
    poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    content = yaml.safe_load((poisoned / "config.yaml").read_text())
    (tmp_path / "run").mkdir()
    for change, words in (
        ({"iterations": "many"}, "iterations must be a whole number"),
        ({"eta": 1}, "unknown key 'eta'"),
    ):
        changed = {**content, "config": {**content["config"], **change}}
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(changed))
        assert cli.main(["unlearn", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == output.FAILED
        error = capsys.readouterr().err
        assert f"{tmp_path / 'run' / 'config.yaml'}: " in error
        assert words in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["heal"],
        ["train"],
        ["train", "--out", "o", "--width", "wide"],
        ["train", "--out", "o", "--data", "mnist"],
        ["train", "--out", "o", "--keep", "best"],
        ["unlearn", "a", "--out", "o", "--group-size", "all"],
        ["unlearn", "a", "--out", "o", "--mode", "fast"],
        ["heal", "a", "--out", "o", "--labels", "guessed"],
        ["evaluate", "--out", "o"],
    ],
)
def test_wrong_usage_has_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("potion-fast") and error.count("\n") == 1
    assert "_group_size" not in error


def test_an_interrupt_has_its_exit_code_and_keeps_what_is_there(
    poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(unlearning, "search_from", interrupt)
    arguments = ["unlearn", str(poisoned), "--device", "cpu", "--quiet", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == output.INTERRUPTED
    again = f"; start it again with --overwrite, as {tmp_path / 'out'} is there now"
    assert capsys.readouterr().err == f"potion-fast unlearn: interrupted{again}\n"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.yaml", "found.txt", "forget.safetensors", "retain.safetensors"}


def test_a_full_disk_is_an_error_and_no_traceback(
    poisoned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert cli.main(["evaluate", str(poisoned), "--quiet", "--out", str(tmp_path / "out")]) == output.FAILED
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_terminal_without_unicode_gets_question_marks(
    poisoned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii"))
    out = tmp_path / "ψ"
    assert cli.main(["evaluate", str(poisoned), "--quiet", "--out", str(out)]) == output.DONE
    assert f"run folder: {tmp_path}/?\n".encode() in screen.getvalue()
    assert (out / "metrics.json").exists()


def test_a_reader_that_goes_away_loses_the_lines_and_not_the_run(
    poisoned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.main(["evaluate", str(poisoned), "--quiet", "--out", str(tmp_path / "out")]) == output.DONE
    assert (tmp_path / "out" / "metrics.json").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_cannot_be_printed_is_an_error(
    poisoned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(["evaluate", str(poisoned), "--quiet", "--out", str(tmp_path / "out")]) == output.FAILED
    assert "cannot print the result" in capsys.readouterr().err


# --- how it is called


@pytest.mark.parametrize("module", ["potion_fast.cli", "potion_fast.cli.main"])
def test_the_module_runs_as_a_program(module: str):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"potion-fast {potion_fast.__version__}\n"
    assert done.stderr == ""


def test_the_console_script_is_the_same_program():
    points = importlib.metadata.entry_points(group="console_scripts", name="potion-fast")
    if not points:
        pytest.skip("potion-fast is not installed here, only importable")
    assert {point.load() for point in points} == {cli.main}
    assert importlib.metadata.version("potion-fast") == potion_fast.__version__
