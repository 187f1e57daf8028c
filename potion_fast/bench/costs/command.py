"""`potion-fast plan`: the cost model for a model, a data set and numbers of processes, as a table."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, replace
from typing import Any

import torch

from ...errors import PotionError
from ...search import BLOCK
from ...user.run_folder import versions
from ..configs import resolved_device
from .calibration import calibrate
from .cost_model import Network, Rates, Work, costs, fitting_shards, shards_needed
from .network import made, network_named, samples
from .rates_file import load_rates, save_rates

ASSUMPTIONS = (
    "each process has a device of its own, as fast as the one that was measured",
    "one ring all-reduce of 4 P bytes ends each of the two passes: a process sends 2 (n - 1)/n of them; no latency",
    "the processes evaluate different candidates at the same time; those that share a copy, the same one",
    "with shards, FSDP spreads weights and importances; weights are gathered, and sums scattered, for every batch",
    "the loader keeps up; reading data and writing files are not counted",
)
RATES = {"pass_rate": "pass_flops", "evaluation_rate": "forward_flops", "plan_rate": "plan", "edit_rate": "edit"}
LOCAL = 4  # processes, at most, that links are measured between


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `potion-fast plan`."""
    add = parser.add_argument
    add("model", nargs="?", default="resnet9", metavar="MODEL", help="as for train (default: resnet9)")
    add("--samples", type=int, required=True, metavar="N", help="training samples without the found ones")
    add("--found", type=int, required=True, metavar="N", help="poisoned samples that were found")
    add("--processes", type=int, nargs="+", default=[1], metavar="N", help="GPUs, a row for each number (default: 1)")
    add("--steps", type=int, default=BLOCK, metavar="N", help=f"candidates until the search ends (default: {BLOCK})")
    add("--batch", type=int, default=64, metavar="N", help="samples of a batch (default: 64)")
    add("--group-size", type=int, metavar="N", help="samples that a loss is averaged over (default: that of unlearn)")
    add("--input", type=int, nargs="+", default=[3, 32, 32], metavar="N", help="C H W, or tokens (default: 3 32 32)")
    add("--classes", type=int, default=10, metavar="N", help="(default: 10)")
    add("--options", nargs="+", default=[], metavar="KEY=N", help="of the model, for instance width=16")
    add("--parameters", type=_whole, metavar="P", help="trainable parameters of another model; MODEL is then measured")
    add("--flops", type=float, metavar="F", help="of that model, forward and backward pass of a sample")
    add("--activations", type=float, default=0.0, metavar="BYTES", help="of that model and a sample (default: 0)")
    add("--memory", type=float, metavar="BYTES", help="of a device (default: of the one that was measured)")
    add("--device", default="auto", metavar="NAME", help="to measure: cpu, cuda or cuda:N (default: cuda if there)")
    add("--rates", metavar="FILE", help="rates that --keep-rates wrote, here or elsewhere, instead of measuring")
    add("--keep-rates", metavar="FILE", help="write the rates that were measured or given")
    for flag, name in RATES.items():
        unit = "FLOP/S" if "flops" in name else "BYTES/S"
        add(f"--{flag.replace('_', '-')}", type=float, metavar=unit, help=f"of {flag[:-5]} (default: measured)")
    add("--link", type=float, metavar="BYTES/S", help="that a process can send (default: measured between local ones)")


def plan_costs(options: dict[str, Any]) -> dict[str, Any]:
    """What the options ask for, as JSON can hold it: a row for each number of processes.

    A row is `extrapolated` unless its rates were measured just now with this model, and its link between so many
    local processes.

    Raises:
        PotionError, FileError, ModelError: the options ask for what cannot be.
    """
    work = Work(options["samples"], options["found"], options["steps"], options["batch"], options["group_size"])
    other = _other_network(options)
    network = _named(options) if other is None else other
    rates, measured = _rates(options, work, network if other is None else None)
    memory = measured.get("device_memory") if options["memory"] is None else options["memory"]
    rows = [_row(network, work, rates, n, memory) for n in options["processes"]]
    for row in rows:
        of_here = other is None and measured["here"] and row["shards"] == 1
        row["extrapolated"] = not of_here or (row["processes"] > 1 and row["processes"] not in measured["links"])
    return {
        "model": _model(options) if other is None else None,
        "network": asdict(network),
        "work": {**asdict(work), "group": work.m},
        "rates": asdict(rates),
        "measured": measured,
        "device_memory": memory,
        "rows": rows,
        "assumptions": list(ASSUMPTIONS),
    }


def _rates(options: dict[str, Any], work: Work, network: Network | None) -> tuple[Rates, dict[str, Any]]:
    """The rates, and what they were measured on; `network` of the named model, where it is known."""
    given = {name: options[flag] for flag, name in RATES.items() if options[flag] is not None}
    if options["rates"] is not None:
        rates, measured = load_rates(options["rates"])
        rates = replace(rates, **given)
    elif len(given) == len(RATES):
        rates, measured = Rates(**given), {}
    else:
        rates, measured = _measured(options, work, network or _named(options))
        rates = replace(rates, **given)
    here = options["rates"] is None and not given
    links = [] if options["link"] is not None or not here else list(rates.links)
    if options["link"] is not None:
        rates = replace(rates, links={2: options["link"]})
    if options["keep_rates"] is not None:
        save_rates(options["keep_rates"], rates, measured)
    return rates, {**measured, "here": here, "links": links, "given": [flag for flag in RATES if RATES[flag] in given]}


def _measured(options: dict[str, Any], work: Work, network: Network) -> tuple[Rates, dict[str, Any]]:
    device = torch.device(resolved_device(options["device"]))
    model = made(options["model"], options["classes"], options["input"], _options(options)).to(device)
    local = sorted({min(n, LOCAL) for n in options["processes"]}) if options["link"] is None else []
    rates = calibrate(model, network, samples(work.batch, options["input"], device), work, local)
    on = {"model": _model(options), "batch": work.batch, "group": work.m, "device": str(device)}
    return rates, {**on, **versions(str(device)), "device_memory": _memory_of(device)}


def _row(network: Network, work: Work, rates: Rates, processes: int, memory: float | None) -> dict[str, Any]:
    needed = 1 if memory is None else shards_needed(network, work, processes, memory)
    shards = 1 if memory is None else fitting_shards(network, work, processes, memory)
    row: dict[str, Any] = {"processes": processes, "shards": shards, "shards_needed": needed}
    if shards is None:
        return row
    cost = costs(network, work, rates, processes, shards)
    amounts = {"seconds": cost.seconds, "sent": cost.sent, "memory": cost.memory}
    return {**row, **amounts, "total_seconds": cost.total, "peak_memory": cost.peak}


def _named(options: dict[str, Any]) -> Network:
    return network_named(options["model"], options["classes"], options["input"], _options(options))


def _other_network(options: dict[str, Any]) -> Network | None:
    """The model that is given by numbers; a third of its FLOPs are the forward pass, which holds no activations."""
    parameters, flops = options["parameters"], options["flops"]
    if parameters is None and flops is None and not options["activations"]:
        return None
    if parameters is None or flops is None:
        raise PotionError("a model given by numbers needs both --parameters and --flops")
    return Network(parameters, flops, flops / 3, options["activations"])


def _whole(text: str) -> int:
    """A whole number, also in the form 1e12."""
    try:
        return int(text) if text.lstrip("-").isdigit() else int(float(text))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def _options(options: dict[str, Any]) -> dict[str, int]:
    try:
        return {key: int(number) for key, number in (option.split("=") for option in options["options"])}
    except ValueError:
        raise PotionError(f"--options takes KEY=N, N a whole number, not {' '.join(options['options'])}") from None


def _model(options: dict[str, Any]) -> str:
    shape = "x".join(map(str, options["input"]))
    return " ".join([options["model"], shape, f"classes={options['classes']}", *options["options"]])


def _memory_of(device: torch.device) -> int | None:
    """Bytes of memory that a device has; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
