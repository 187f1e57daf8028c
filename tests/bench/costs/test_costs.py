"""The cost model: its counts against counted runs, its limits, and the command."""

from __future__ import annotations

import json
import math
from dataclasses import astuple, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import potion_fast as pf
from helpers.processes import in_processes
from potion_fast.bench.costs import (
    Network,
    Rates,
    Work,
    calibrate,
    command,
    costs,
    edited,
    fitting_shards,
    link_rates,
    memory,
    network_named,
    network_of,
    ring,
    shards_needed,
)
from potion_fast.bench.costs.rates_file import load_rates, save_rates
from potion_fast.bench.models import create_model
from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.distributed import ShareSampler
from potion_fast.errors import FileError, ModelError, PotionError
from potion_fast.percentiles import schedule
from potion_fast.utils.memory import needs_of_pass, needs_of_search, peak_of
from potion_fast.utils.model import fingerprint

NETWORK = Network(10**6, 6e8, 2e8, 1e6, 1e5)
WORK = Work(50_000, 500)
RATES = Rates(1e12, 2e12, 1e9, 1e8, 10.0, {2: 1e9, 8: 5e8})
COUNTS = st.integers(1, 10**9)
NUMBERS = st.floats(1, 1e15)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 5))


def batches(count: int, size: int = 8) -> DataLoader[Any]:
    inputs = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return DataLoader(TensorDataset(inputs, small()(inputs).argmax(1)), batch_size=size)


# --- Counts, against what is counted --------------------------------------------------------------------------------


def test_flops_and_activations_are_those_of_the_layers() -> None:
    found = network_of(small(), torch.randn(1, 3, 4, 4))
    forward = 2 * (48 * 20 + 20 * 5)
    gradients = 2 * (48 * 20) + 2 * (2 * 20 * 5)  # the first layer needs no gradient of its input
    assert found.parameters == 48 * 20 + 20 + 20 * 5 + 5
    assert (found.forward_flops, found.flops) == (forward, forward + gradients)
    assert found.activations == 4 * (48 + 20 + 5)  # both inputs of the linear layers, and what the test's loss squares
    assert found.forward_activations == 4 * (20 + 20)


def test_a_model_is_counted_without_memory_as_it_is_with() -> None:
    real = network_of(create_model("resnet9", 10, width=4).eval(), torch.randn(1, 3, 32, 32))
    counted = network_named("resnet9", 10, (3, 32, 32), {"width": 4})
    assert astuple(counted)[:3] == astuple(real)[:3]
    assert astuple(counted)[3:] == pytest.approx(astuple(real)[3:], rel=0.01)  # batch norms keep a few numbers more
    huge = network_named("timm:vit_base_patch16_224", 1000, (3, 224, 224), {})
    assert huge.parameters == 86_567_656
    assert huge.forward_flops == pytest.approx(2 * 17.58e9, rel=0.01)  # the published count is of multiply-adds


def counted_pass(samples: int) -> tuple[int, int]:
    """Bytes of the all-reduces of a pass, and samples that this rank took."""
    reduced, taken, all_reduce = [], [], dist.all_reduce

    def counting(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        reduced.append(tensor.nbytes)
        return all_reduce(tensor, *args, **options)

    dist.all_reduce = counting
    data = batches(samples).dataset
    model = small()
    model.register_forward_pre_hook(
        lambda module, inputs: taken.append(len(inputs[0])) if len(inputs[0]) == 8 else None
    )
    pf.importance(model, DataLoader(data, batch_size=8, sampler=ShareSampler(data)), group_size=8)
    return sum(reduced), 8 * taken.count(8)  # the others are what a pass tries once


def test_a_pass_all_reduces_and_takes_as_much_as_predicted(tmp_path: Path) -> None:
    network = network_of(small(), torch.randn(1, 3, 4, 4))
    work = Work(88, 16, batch=8, group=8)
    predicted = costs(network, work, replace(RATES, setup=0.0), 2)
    counted = in_processes(2, counted_pass, 88, folder=tmp_path)
    assert {ring(2) * reduced for reduced, _ in counted} == {predicted.sent["all-reduce"] / 2}
    slowest = max(taken for _, taken in counted)
    assert slowest * network.flops / RATES.pass_flops == pytest.approx(predicted.seconds["retain pass"])


def test_a_plan_keeps_and_edits_as_many_weights_as_predicted() -> None:
    model, work = small(), Work(100, 100, steps=64)
    n = sum(parameter.numel() for parameter in model.parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    f, o = torch.arange(1.0, n + 1), torch.full((n,), 0.5)
    forget, retain = (pf.Importance(sums, shapes, 1, 1, "xlf", 1, fingerprint(model)) for sums in (f, o))
    points = [p for _, p in islice(schedule(0.5, 1 / 25, 1.1), 64)]
    plan = pf.EditPlan.at_percentiles(model, forget, retain, points)
    for steps in (1, 20, 64):
        assert abs(plan.dampened(steps - 1) - edited(Network(n, 1, 1), replace(work, steps=steps))) <= 1


def test_a_search_evaluates_as_often_as_predicted() -> None:
    found, model = batches(16), small()
    forget, retain = pf.importance(model, found, group_size=1), pf.importance(model, batches(40), group_size=1)
    taken: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: taken.append(len(inputs[0])))
    with pytest.warns(pf.PotionWarning):
        pf.ptn_search(model, forget, retain, found, strict=True, rho=0.0, max_steps=5, inplace=True)
    predicted = costs(NETWORK, Work(40, 16, steps=5, batch=8), RATES)
    assert sum(taken) * NETWORK.forward_flops / RATES.forward_flops == pytest.approx(predicted.seconds["evaluation"])


def test_memory_is_what_the_method_asks_for_and_takes() -> None:
    model, work = small(), Work(64, 8, batch=64)
    network = network_of(model, torch.randn(1, 3, 4, 4))
    P = network.parameters
    without = replace(network, activations=0.0, forward_activations=0.0)
    predicted = memory(without, work)
    assert predicted["pass"] == 8 * P + sum(needs_of_pass(P, 1, torch.float32).values())  # weights and Ω_f
    further = sum(amount for what, amount in needs_of_search(model, inplace=False).items() if "plan" not in what)
    kept = 28 * edited(network, work, whole_plan=True)
    assert predicted["search"] == pytest.approx(4 * P + 8 * P + further + kept)


@pytest.mark.usefixtures("one_thread")  # each thread of a kernel has working space, which is left out
@pytest.mark.parametrize("group", [8, 64])
def test_a_pass_holds_as_much_memory_as_predicted(group: int) -> None:
    many_weights = nn.Sequential(nn.Flatten(), nn.Linear(768, 400), nn.ReLU(), nn.Linear(400, 5))
    model = many_weights if group == 64 else create_model("resnet9", 10, width=4).eval()  # 64: more than a batch
    network, work = network_of(model, torch.randn(1, 3, 16, 16)), Work(32, 8, batch=16, group=group)
    data = TensorDataset(torch.randn(32, 3, 16, 16), torch.zeros(32, dtype=torch.int64))
    with peak_of(torch.device("cpu")) as peak:
        pf.importance(model, DataLoader(data, batch_size=16), group_size=group)
    assert peak[0] == pytest.approx(memory(network, work)["pass"] - 8 * network.parameters, rel=0.1)


# --- What must hold for all numbers ---------------------------------------------------------------------------------


@given(COUNTS, COUNTS, st.integers(1, 10**4), st.integers(0, 10**6))
def test_more_data_takes_no_less(samples: int, more: int, processes: int, found: int) -> None:
    small_one = costs(NETWORK, Work(samples, 1 + found), RATES, processes)
    large = costs(NETWORK, Work(samples + more, 1 + found), RATES, processes)
    larger = costs(NETWORK, Work(samples, 1 + found + more), RATES, processes)
    assert large.seconds["retain pass"] >= small_one.seconds["retain pass"]
    for phase in ("forget pass", "edits", "evaluation"):
        assert larger.seconds[phase] >= small_one.seconds[phase]


@given(COUNTS, COUNTS, st.sampled_from([(1, 1), (8, 1), (8, 2), (8, 8)]))
def test_more_parameters_take_no_less(parameters: int, more: int, ranks: tuple[int, int]) -> None:
    small_one, large = (
        costs(replace(NETWORK, parameters=p), WORK, RATES, *ranks) for p in (parameters, parameters + more)
    )
    for kind in ("seconds", "sent", "memory"):
        assert all(value >= getattr(small_one, kind)[phase] for phase, value in getattr(large, kind).items())


@given(COUNTS, st.integers(1, 10**5), st.integers(1, 500), st.integers(1, 5000), st.integers(1, 5000))
def test_more_devices_never_compute_longer(samples: int, found: int, steps: int, few: int, more: int) -> None:
    rates = replace(RATES, links={2: 1e300})
    work = Work(samples, found, steps)
    before, after = costs(NETWORK, work, rates, few), costs(NETWORK, work, rates, few + more)
    assert all(seconds <= before.seconds[phase] * (1 + 1e-12) + 1e-200 for phase, seconds in after.seconds.items())


@example(10**9, 0.0, 4, 22.5e9)  # a sharded model is not copied
@given(st.integers(1, 10**13), st.floats(0, 1e9), st.integers(1, 2**12), st.floats(1e9, 1e12))
def test_the_fewest_shards_fit_and_one_less_does_not(
    parameters: int, activations: float, processes: int, device_memory: float
) -> None:
    network = Network(parameters, 1.0, 1.0, activations)
    needed = shards_needed(network, WORK, processes, device_memory)
    if needed is None:
        assert 64 * activations * (1 + 1e-12) >= device_memory
        return
    assert max(memory(network, WORK, processes, needed).values()) <= device_memory * (1 + 1e-9)
    if needed > 1:
        assert max(memory(network, WORK, processes, needed - 1).values()) > device_memory * (1 - 1e-9)
    shards = fitting_shards(network, WORK, processes, device_memory)
    assert (shards is None) == (needed > processes)
    assert shards is None or (shards >= needed and processes % shards == 0)


def test_one_process_sends_nothing_and_a_ring_less_than_twice_the_sums() -> None:
    assert sum(costs(NETWORK, WORK, replace(RATES, links={})).sent.values()) == 0
    for n in (2, 3, 1024):
        sent = costs(NETWORK, WORK, RATES, n).sent["all-reduce"] / 2
        assert sent == ring(n) * 4 * NETWORK.parameters < 2 * 4 * NETWORK.parameters


def test_shards_send_their_weights_and_sums_for_every_batch() -> None:
    predicted = costs(NETWORK, WORK, RATES, 8, 4)
    assert (
        predicted.sent["retain pass"] == math.ceil(98 * 64 / 64) * 3 * 3 / 4 * 4e6
    )  # 98 groups of 64 are a process's part
    assert predicted.sent["all-reduce"] == 2 * ring(2) * 1e6
    assert predicted.sent["evaluation"] == 65 * 8 * 3 / 4 * 4e6


def test_a_link_that_was_not_measured_takes_the_next_smaller_one() -> None:
    assert [RATES.link(n) for n in (2, 7, 8, 1024)] == [1e9, 1e9, 5e8, 5e8]
    with pytest.raises(PotionError, match="link"):
        costs(NETWORK, WORK, replace(RATES, links={}), 2)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_numbers_out_of_range_are_named(bad: float) -> None:
    for kind, names in (
        (NETWORK, ("parameters", "flops", "forward_flops")),
        (WORK, ("samples", "found", "steps", "batch", "group")),
        (RATES, ("pass_flops", "forward_flops", "plan", "edit")),
    ):
        for name in names:
            with pytest.raises(PotionError, match=f"{name} must be finite and above 0, not"):
                replace(kind, **{name: bad})
    for call in (lambda: costs(NETWORK, WORK, RATES, bad), lambda: shards_needed(NETWORK, WORK, 1, bad)):
        with pytest.raises(PotionError, match="must be finite and above 0"):
            call()
    with pytest.raises(PotionError, match=r"links\[2\] must be finite and above 0"):
        replace(RATES, links={2: bad})
    if bad:
        with pytest.raises(PotionError, match="setup must be finite and not negative"):
            replace(RATES, setup=bad)


def test_shards_must_divide_the_processes() -> None:
    with pytest.raises(PotionError, match="8 processes cannot hold copies of 3 shards"):
        costs(NETWORK, WORK, RATES, 8, 3)


# --- Calibration and the command ------------------------------------------------------------------------------------


def test_a_calibration_gives_rates_and_leaves_the_model(one_thread: None) -> None:
    model, inputs = small(), torch.randn(8, 3, 4, 4)
    before = fingerprint(model)
    network = network_of(model, inputs[:1])
    rates = calibrate(model, network, inputs, Work(100, 10, batch=8), seconds=0.01)
    assert fingerprint(model) == before
    assert rates.links == {}
    assert rates.setup > 0


def test_links_are_measured_for_each_number_of_processes() -> None:
    rates = link_rates([3, 1, 2], 1000)
    assert list(rates) == [2, 3]
    assert all(0 < rate < 1e12 for rate in rates.values())


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["plan", "--samples", "50000", "--found", "500", *arguments, "--json"]) == output.DONE
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


TOLD = ["--pass-rate", "1e12", "--evaluation-rate", "2e12", "--plan-rate", "1e9", "--edit-rate", "1e8", "--link", "1e9"]
GIVEN = ["--parameters", "1e12", "--flops", "1e15", *TOLD]


def test_the_command_measures_writes_its_rates_and_reads_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_thread: None
) -> None:
    monkeypatch.setattr(command, "calibrate", partial(calibrate, seconds=0.01))
    architecture = ["small_cnn", "--input", "1", "8", "8", "--options", "width=4", "--processes", "1", "1024"]
    file = str(tmp_path / "rates.json")
    measured = planned(capsys, *architecture, "--batch", "8", "--link", "1e9", "--keep-rates", file)
    assert [row["extrapolated"] for row in measured["rows"]] == [False, True]
    assert measured["rows"][0]["total_seconds"] > measured["rows"][1]["total_seconds"]
    read = planned(capsys, *architecture, "--batch", "8", "--rates", file)
    assert [row["extrapolated"] for row in read["rows"]] == [True, True]
    assert read["rows"][0]["seconds"] == measured["rows"][0]["seconds"]
    Path(file).write_text(Path(file).read_text()[:-20])
    assert cli.main(["plan", "--samples", "5", "--found", "5", "--rates", file]) == output.FAILED
    assert "cannot be read as rates" in capsys.readouterr().err


def test_a_model_that_does_not_fit_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = planned(capsys, *GIVEN, "--memory", "8e10", "--processes", "1", "1024")["rows"]
    assert [row["shards"] for row in rows] == [None, 512]
    needed = rows[0]["shards_needed"]
    assert 250 < needed <= 512  # 20 TB of weights, sums and means over 80 GB
    assert "seconds" not in rows[0]
    assert cli.main(["plan", "--samples", "50000", "--found", "500", *GIVEN, "--memory", "8e10"]) == output.DONE
    text = capsys.readouterr().out
    assert f"does not fit: {needed} shards of 80 GB needed" in text
    assert "Extrapolated, not measured (*): each process has a device of its own" in text


def test_the_command_names_what_it_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--parameters", "1e9", *TOLD], "needs both --parameters and --flops"),
        (["--options", "width", *TOLD], "--options takes KEY=N"),
        (["--memory", "nan", *TOLD], "device_memory must be finite and above 0"),
        (["no_such_model", *TOLD], "unknown model"),
        (["resnet9", "--input", "7", *TOLD], "cannot take an input [7]"),
        (["--rates", "nowhere.json"], "no rates at nowhere.json"),
    ):
        assert cli.main(["plan", "--samples", "50", "--found", "5", *arguments]) == output.FAILED
        assert words in capsys.readouterr().err


def test_files_that_are_no_rates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    save_rates(path, RATES, {"model": "m"})
    assert load_rates(path) == (RATES, {"model": "m"})
    whole = path.read_text()
    for text in ("", "[]", "{}", whole[: len(whole) // 2], whole.replace("1000000000.0", "NaN"), "[" * 10_000):
        path.write_text(text)
        with pytest.raises(FileError, match="cannot be read as rates"):
            load_rates(path)


def test_an_input_that_the_model_cannot_take_is_named() -> None:
    with pytest.raises(ModelError, match=r"cannot take an input \[5\]"):
        network_named("small_cnn", 10, (5,), {})
