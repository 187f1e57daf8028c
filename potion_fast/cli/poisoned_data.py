"""`potion-fast preview` and `export`: the poisoned data, to be looked at or taken elsewhere."""

from __future__ import annotations

import argparse
import os

from ..bench.configs import TrainConfig
from ..user.flags import add_flags
from .output import DONE, Options, add_run_flags, print_json, print_text, run_options


def add_preview(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `preview`."""
    add_flags(parser, TrainConfig, TrainConfig.data_keys())
    parser.add_argument("--images", type=int, default=6, metavar="N", help="samples to show, at most 12 (default: 6)")
    add_run_flags(parser)


def run_preview(options: Options) -> int:
    """Draw samples, and print their labels."""
    from ..bench.runs import preview_run

    out, config = options["out"], TrainConfig.from_flags(options)
    content = preview_run(config, out, images=options["images"], overwrite=options["overwrite"])
    if options["json"]:
        print_json(content)
        return DONE
    sample, drawn = ("image", "picture") if content["file"].endswith(".png") else ("review", "reviews")
    for shown in content["shown"]:
        print_text(f"{sample} {shown['index']}: label {shown['label']}, given {shown['given']}")
    print_text(f"{drawn}: {os.path.join(out, content['file'])}")
    return DONE


def add_export(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `export`."""
    add_flags(parser, TrainConfig, TrainConfig.data_keys())
    parser.add_argument(
        "--form",
        choices=("folder", "npz"),
        default="folder",
        help="PNG files in a folder per class, or .npz files (default: folder)",
    )
    add_run_flags(parser)


def run_export(options: Options) -> int:
    """Write the data, and print how many images there are."""
    from ..bench.runs import export_run

    content = export_run(TrainConfig.from_flags(options), form=options["form"], **run_options(options))
    if options["json"]:
        print_json(content)
        return DONE
    for name, count in content["images"].items():
        print_text(f"{name}: {count} images")
    print_text(f"run folder: {options['out']}")
    return DONE
