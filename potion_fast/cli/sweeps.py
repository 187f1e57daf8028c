"""`potion-fast sweep` and `report`."""

from __future__ import annotations

import argparse

from .output import DONE, FAILED, Options, add_json, print_json, print_text


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `sweep`."""
    from ..bench.sweep.config import presets

    add_json(parser)
    parser.add_argument("sweep", metavar="NAME|FILE", help=f"a YAML file, or one of {', '.join(presets())}")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help='for instance train.width=16 or "found=[1, 0.5]"'
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the sweep; what is done in it stays")
    parser.add_argument(
        "--root", metavar="DIR", help="folder of the data (default: $POTION_FAST_DATA; digits need none)"
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that share the work (default: 1)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of the unlearnings to do (default: all)")
    parser.add_argument(
        "--dry-run", action="store_true", help="say how much it is and how long it takes, and do nothing"
    )
    parser.add_argument("--quiet", action="store_true", help="print the result alone")


def run_sweep(options: Options) -> int:
    """Do what is left of a sweep, or with --dry-run say how much it is."""
    from ..bench import sweep

    choice = {name: options[name] for name in ("overrides", "root", "only")}
    if options["dry_run"]:
        content = sweep.plan_sweep(options["sweep"], options["out"], **choice)
        if options["json"]:
            print_json(content)
        else:
            print_text("\n".join(sweep.format_estimate(content["name"], content)))
        return DONE
    content = sweep.run_sweep(
        options["sweep"], options["out"], processes=options["processes"], progress=not options["quiet"], **choice
    )
    if options["json"]:
        print_json(content)
    else:
        done = content["tasks"] - len(content["undone"])
        print_text(f"{done} of {content['tasks']} tasks are done; sweep: {options['out']}")
    return FAILED if content["undone"] else DONE


def add_report(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `report`."""
    from ..bench.report import SAMPLES

    add_json(parser)
    parser.add_argument("sweep", metavar="DIR", help="folder of the sweep")
    parser.add_argument(
        "--out", metavar="DIR2", help="folder to write; an earlier report in it is replaced (default: DIR/report)"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=SAMPLES,
        metavar="N",
        help=f"training images to measure a model on, for figures 3 to 5 and 7; 0: use no model (default: {SAMPLES})",
    )


def run_report(options: Options) -> int:
    """Make the report of a sweep."""
    from ..bench.report import report_sweep

    content = report_sweep(options["sweep"], options["out"], samples=options["samples"])
    if options["json"]:
        print_json(content)
        return DONE
    print_text(f"{content['rows']} rows, {len(content['tables'])} tables, {len(content['figures'])} figures")
    for name, reason in content["not_drawn"].items():
        print_text(f"not drawn: {name}: {reason}")
    print_text(f"page: {content['page']}")
    return DONE
