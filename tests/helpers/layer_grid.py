"""Every layer of torch.nn over a grid of its options, by the name of the case."""

from __future__ import annotations

from helpers.cases import Case
from helpers.layer_uses import reparametrised, tied
from helpers.layers import convolutions, embeddings, norms, products, transposed_convolutions, unequal_convolutions
from helpers.sequence_layers import attention, recurrent

CASES: dict[str, Case] = {
    case.name: case
    for case in [
        *(case for dims in (1, 2, 3) for case in [*convolutions(dims), *transposed_convolutions(dims)]),
        *unequal_convolutions(),
        *products(),
        *embeddings(),
        *norms(),
        *attention(),
        *recurrent(),
        *reparametrised(),
        *tied(),
    ]
}
