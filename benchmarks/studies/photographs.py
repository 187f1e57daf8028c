"""The JPEG loader: files read, decoded, cropped and collated, compared with decoding alone on the same cores.

    photographs.py OUT.csv [--workers ...]     measure; one row per number of workers and method
    photographs.py --markdown OUT.csv          the table for README.md

The files are generated: 500 x 375 pixels, smooth shapes with some noise, about as many bytes as ImageNet's. As many
processes as the loader has workers decode the same files and discard the result: that is the bound, `ratio` is the
quotient of medians to it, and `to_pillow` that to Pillow's decoder. A GPU gets the images unnormalised; on a CPU the
loader's own process normalises them. The methods take turns; a turn is one epoch of processes that are running already.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from potion_fast.bench.data import JpegSource, PoisonedDataset, Preprocessing, make_loader
from potion_fast.user.jpeg_source import decode
from potion_fast.user.run_folder import versions

SIZE = (500, 375)
QUALITY = 90


def make_photographs(folder: Path, count: int) -> list[str]:
    """JPEGs in a folder; their names."""
    random = np.random.default_rng(0)
    names = [f"{index:06}.jpg" for index in range(count)]
    for name in names:
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
        noise = random.normal(0, 12, (*SIZE[::-1], 1)).astype(np.float32)
        pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=QUALITY)
    return names


def source(folder: Path, names: list[str], size: int = 224) -> JpegSource:
    return JpegSource(folder, names, torch.zeros(len(names), dtype=torch.int64), Preprocessing(size=size))


def by_pillow(paths: list[str]) -> int:
    for path in paths:
        with Image.open(path) as file:
            file.load()
    return len(paths)


def by_loader(paths: list[str]) -> int:
    for path in paths:
        decode(path)
    return len(paths)


def decoding(
    decoder: Callable[[list[str]], int], folder: Path, names: list[str], workers: int, batch: int
) -> Callable[[], int]:
    """Every file decoded and forgotten, batch by batch, by so many processes."""
    paths = [str(folder / name) for name in names]
    parts = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    if workers == 0:
        return lambda: sum(map(decoder, parts))
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("fork"), initializer=torch.set_num_threads, initargs=(1,)
    )
    return lambda: sum(pool.map(decoder, parts))


def loading(
    folder: Path, names: list[str], workers: int, batch: int, augment: bool, finished: bool = False
) -> Callable[[], int]:
    """Every batch of an epoch."""
    dataset = PoisonedDataset(source(folder, names), (0.5,) * 3, (0.5,) * 3, augment=augment)
    loader = make_loader(dataset, batch_size=batch, shuffle=True, seed=0, workers=workers)

    def batches() -> Iterable[tuple[torch.Tensor, ...]]:
        return loader if finished else loader._reads()

    return lambda: sum(len(images) for images, *_ in batches())


def measure(options: argparse.Namespace, folder: Path, names: list[str]) -> Iterator[dict[str, object]]:
    for workers in options.workers:
        turns = {
            "decode": decoding(by_loader, folder, names, workers, options.batch),
            "decode by Pillow": decoding(by_pillow, folder, names, workers, options.batch),
            "random crops": loading(folder, names, workers, options.batch, True),
            "central crops": loading(folder, names, workers, options.batch, False),
            "random crops, finished": loading(folder, names, workers, options.batch, True, True),
        }
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for turn in turns.values():
            turn()
        for _ in range(options.rounds):
            for name, turn in turns.items():
                start = time.perf_counter()
                done = turn()
                rates[name].append(done / (time.perf_counter() - start))
        median = {name: statistics.median(found) for name, found in rates.items()}
        for name, found in rates.items():
            yield {
                "method": name,
                "workers": workers,
                "images_per_s": round(median[name], 1),
                "low": round(min(found), 1),
                "high": round(max(found), 1),
                "ratio": round(median[name] / median["decode"], 3),
                "to_pillow": round(median[name] / median["decode by Pillow"], 3),
                "images": len(names),
                "kilobytes": round(sum((folder / n).stat().st_size for n in names) / len(names) / 1000),
                "batch": options.batch,
                "rounds": options.rounds,
                "date": datetime.date.today().isoformat(),
                **versions("cpu"),
            }


COLUMNS = [
    "method",
    "workers",
    "images_per_s",
    "low",
    "high",
    "ratio",
    "to_pillow",
    "images",
    "kilobytes",
    "batch",
    "rounds",
    "date",
    "hardware",
    "torch",
    "potion_fast",
    "python",
    "numpy",
    "platform",
]


def markdown(rows: list[dict[str, str]]) -> str:
    """Methods down, numbers of workers across."""
    workers = list(dict.fromkeys(row["workers"] for row in rows))
    cells = {(row["method"], row["workers"]): row for row in rows}
    first = rows[0]
    lines = [
        f"{first['hardware']}, PyTorch {first['torch']}, {first['date']}; medians of {first['rounds']} rounds, "
        f"{first['images']} JPEGs of {first['kilobytes']} kB, images/s and, in brackets, times the decoding.",
        "",
        "| | " + " | ".join(f"{count} workers" for count in workers) + " |",
        "|---|" + "---:|" * len(workers),
    ]
    for method in dict.fromkeys(row["method"] for row in rows):
        shown = [cells[method, count] for count in workers]
        lines.append(f"| {method} | " + " | ".join(f"{r['images_per_s']} ({r['ratio']})" for r in shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="CSV", help="the file that is written, or read with --markdown")
    parser.add_argument("--markdown", action="store_true", help="print the table of a CSV instead of measuring")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="0: in this process")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.markdown:
        with options.out.open(newline="", encoding="utf-8") as file:
            print(markdown(list(csv.DictReader(file))), end="")
        return
    torch.set_num_threads(1)  # as in a worker: the loader without workers is then one core too
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in measure(options, Path(folder), make_photographs(Path(folder), options.images)):
            writer.writerow(row)
            file.flush()


if __name__ == "__main__":
    main()
