"""Accuracy by class, from the predictions.csv of run folders, as CSV; or that CSV as Markdown for a README.

class_accuracy.py RUN ...                       run, class, images, accuracy on clean and on triggered ones
class_accuracy.py --markdown CLASSES.CSV CLASS  this class, and all others together
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

from run_table import named, print_csv

ACCURACIES = ["clean", "triggered"]


def rows(run: Path, name: str) -> list[dict[str, object]]:
    """Accuracies are fractions in [0, 1]; a triggered image is right where its clean label is predicted."""
    images: Counter[int] = Counter()
    right: Counter[tuple[int, str]] = Counter()
    with open(run / "predictions.csv", encoding="utf-8", newline="") as file:
        for image in csv.DictReader(file):
            label = int(image["label"])
            images[label] += 1
            right.update((label, kind) for kind in ACCURACIES if int(image[kind]) == label)
    return [
        {"run": name, "class": label, "n": n, **{kind: round(right[label, kind] / n, 6) for kind in ACCURACIES}}
        for label, n in sorted(images.items())
    ]


def print_markdown(path: Path, label: str) -> None:
    with open(path, encoding="utf-8", newline="") as file:
        classes = list(csv.DictReader(file))
    columns = [(kind, own) for kind in ACCURACIES for own in (True, False)]
    heads = [f"{kind}, " + (f"class {label}" if own else "the others") for kind, own in columns]
    print("| run | " + " | ".join(heads) + " |")
    print("|---|" + "---:|" * len(columns))
    for run in dict.fromkeys(row["run"] for row in classes):
        cells = [
            accuracy([row for row in classes if row["run"] == run and (row["class"] == label) == own], kind)
            for kind, own in columns
        ]
        print(f"| {run} | " + " | ".join(f"{100 * cell:.1f} %" for cell in cells) + " |")


def accuracy(classes: list[dict[str, str]], kind: str) -> float:
    """Accuracy on the images of all these classes."""
    return sum(int(row["n"]) * float(row[kind]) for row in classes) / sum(int(row["n"]) for row in classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", nargs=2, metavar=("CLASSES.CSV", "CLASS"), help="print a Markdown table")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder with a predictions.csv")
    options = parser.parse_args()
    if bool(options.runs) == bool(options.markdown):
        parser.error("give either run folders or --markdown")
    if options.markdown:
        print_markdown(Path(options.markdown[0]), options.markdown[1])
    else:
        print_csv([row for name, run in named(options.runs).items() for row in rows(run, name)])


if __name__ == "__main__":
    main()
