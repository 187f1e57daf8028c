"""`potion-fast doctor`: what an installation is made of, and which kernel each operation gets."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from typing import Any

import numpy as np
import torch

from .. import ops
from ..errors import BackendError
from .output import DONE, Options, add_json, print_json, print_text

ENVIRONMENT = (
    "POTION_FAST_BACKEND",
    "POTION_FAST_REQUIRE_NATIVE",
    "POTION_FAST_DATA",
    "TRITON_INTERPRET",
    "CC",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `doctor`."""
    add_json(parser)


def run_doctor(options: Options) -> int:
    """Print the report."""
    report = doctor()
    if options["json"]:
        print_json(report)
    else:
        print_text(format_report(report))
    return DONE


def doctor() -> dict[str, Any]:
    """Versions, devices, the native module, the backend of each operation on each device, and the environment.

    Returns:
        Strings, numbers, booleans, None, lists and dictionaries alone, so that it can be written as JSON.
    """
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return {
        "versions": {
            "potion_fast": _version("potion-fast"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "numpy": np.__version__,
        },
        "machine": {
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            "torch_cuda": torch.version.cuda,
            "gpus": [_gpu(i) for i in range(torch.cuda.device_count())],
        },
        "native": _native(),
        "backends": {op: {device: _choice(op, device) for device in devices} for op in ops.OPS},
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def format_report(report: dict[str, Any]) -> str:
    """The report of `doctor` for a terminal."""
    lines = ["versions"]
    lines += [f"  {name:<14}{version or 'not installed'}" for name, version in report["versions"].items()]

    machine = report["machine"]
    lines += ["machine", f"  {'platform':<14}{machine['platform']}", f"  {'CPU threads':<14}{machine['threads']}"]
    lines += [f"  {'CUDA in torch':<14}{machine['torch_cuda'] or 'none'}"]
    for i, gpu in enumerate(machine["gpus"]):
        lines.append(f"  {f'GPU {i}':<14}{gpu['name']}, sm_{gpu['capability']}, {gpu['memory_gib']:.0f} GiB")
    if not machine["gpus"]:
        lines.append(f"  {'GPU':<14}none that torch can use")

    native = report["native"]
    lines.append("native module")
    if native["present"]:
        lines.append(f"  {'C++':<14}{native['compiler']}, {native['cpu_instructions']}")
        compiled = f"{native['cuda_version']}, architectures {native['cuda_architectures']}"
        without = "not compiled: no working nvcc at the build, or disabled"
        lines.append(f"  {'CUDA':<14}{compiled if native['cuda'] else without}")
    else:
        lines.append(f"  {native['problem']}")

    lines.append("backends")
    width = max(map(len, report["backends"])) + 1
    for op, choices in report["backends"].items():
        for device, choice in choices.items():
            lines.append(f"  {op:<{width}}{device:<8}{choice['backend'] or 'none':<11}{choice['reason']}")

    if report["environment"]:
        lines.append("environment")
        lines += [f"  {name}={value}" for name, value in report["environment"].items()]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}{properties.minor}",
        "memory_gib": properties.total_memory / 2**30,
    }


def _native() -> dict[str, Any]:
    if ops.native is None:
        return {"present": False, "problem": ops.native_problem}
    names = ("compiler", "cpu_instructions", "cuda", "cuda_version", "cuda_architectures")
    return {"present": True} | {name: getattr(ops.native, name) for name in names}


def _choice(op: str, device: str) -> dict[str, str | None]:
    try:
        return ops.chosen(op, device)._asdict()
    except BackendError as error:
        return {"backend": None, "reason": str(error)}
