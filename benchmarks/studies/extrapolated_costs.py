"""The cost model extrapolated to other machines: two tables of docs/cost-model.md. Nothing is measured.

    extrapolated_costs.py gpus     ViT-B/16 on 1 to 1,024 GPUs
    extrapolated_costs.py sizes    transformers of 10⁹ to 10¹² parameters on 1, 64 and 1,024 GPUs

Both unlearn 1,000 found samples from 1,281,167 others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from potion_fast.bench.costs import Network, Rates, Work, costs, fitting_shards, network_named, shards_needed
from potion_fast.bench.costs.format import BYTES, PHASES, TIMES, amount

RATES = Rates(pass_flops=4e14, forward_flops=4e14, plan=5e11, edit=1e11, links={2: 5e10})  # assumed, of one GPU
MEMORY = 141e9  # bytes of a GPU
DATA = {"samples": 1_281_167, "found": 1_000}
TOKENS = 197
SIZES = {  # parameters -> bytes of activations per sample, samples of a batch
    10**9: (0.75e9, 64),
    10**10: (2.7e9, 16),
    10**11: (11e9, 4),
    10**12: (44e9, 1),
}
POWERS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
HEADS = ["GPUs", "shards", *PHASES, "**total**", "sent each", "memory each"]


def cells(network: Network, work: Work, gpus: int) -> list[str]:
    """A row of the table without its first column."""
    shards = fitting_shards(network, work, gpus, MEMORY)
    if shards is None:
        return [f"{gpus:,}", f"needs {shards_needed(network, work, gpus, MEMORY):,}", *[""] * (len(HEADS) - 2)]
    found = costs(network, work, RATES, gpus, shards)
    seconds = [amount(found.seconds[phase], TIMES) for phase in PHASES]
    sent = amount(sum(found.sent.values()), BYTES)
    return [f"{gpus:,}", f"{shards:,}", *seconds, f"**{amount(found.total, TIMES)}**", sent, amount(found.peak, BYTES)]


def by_gpus() -> Iterator[list[str]]:
    """64 candidates, spread over the GPUs."""
    network = network_named("timm:vit_base_patch16_224", 1000, (3, 224, 224), {})
    work = Work(**DATA, steps=64, batch=128)
    yield HEADS
    yield from (cells(network, work, gpus) for gpus in (1, 8, 64, 1024))


def by_size() -> Iterator[list[str]]:
    """8 candidates, as "bisect" takes them."""
    yield ["P", *HEADS]
    for parameters, (activations, batch) in SIZES.items():
        flops = 6.0 * TOKENS * parameters
        network = Network(parameters, flops, flops / 3, activations)
        power = "10" + str(len(str(parameters)) - 1).translate(POWERS)
        for gpus in (1, 64, 1024):
            yield [power, *cells(network, Work(**DATA, steps=8, batch=batch), gpus)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("gpus", "sizes"))
    heads, *rows = by_gpus() if parser.parse_args().table == "gpus" else by_size()
    for row in [heads, ["---:"] * len(heads), *rows]:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
