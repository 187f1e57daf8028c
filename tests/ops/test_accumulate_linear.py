"""accumulate_linear: every kernel agrees with float64 as well as PyTorch does, and writes nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.backends import Backend, assert_same_bits, opcheck
from helpers.products import INSTRUCTIONS, Sums, assert_near, bits_on_threads, examples, limited, summed
from potion_fast import ops
from potion_fast.errors import ImportanceError

DTYPES = [torch.float32, torch.float64]
SHAPES = {  # N, T, I, O
    "one of everything": (1, 1, 1, 1),
    "one row per term": (5, 1, 9, 4),
    "narrow": (3, 5, 7, 2),
    "edges of every panel": (4, 9, 33, 15),
    "few rows": (9, 4, 40, 30),
    "tokens": (4, 17, 48, 31),
    "terms longer than a chunk": (2, 301, 20, 9),
}
LARGE = {  # several blocks, splits and chunks
    "vit": (20, 65, 192, 130),
    "long": (3, 777, 65, 70),
    "wide": (2, 70, 900, 29),
    "tall": (2, 30, 29, 900),
    "many short": (700, 4, 70, 45),
}


def data(terms: int, rows: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(terms + 10 * rows + 100 * inputs + 1000 * outputs)
    shapes = (terms, rows, inputs), (terms, rows, outputs)
    A, G = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return A, G


def check(
    backend: Backend,
    inputs: Tensor,
    gradients: Tensor,
    dtype: torch.dtype = torch.float32,
    square: bool = False,
    sets: int = 1,
    weights: Tensor | None = None,
    bias: bool = True,
) -> None:
    """The sums and the bias of one call, against float64 and against PyTorch in the dtype of the sums."""
    shape = (gradients.shape[2], inputs.shape[2])
    sums = Sums(sets, shape, dtype, backend.device, bias)
    a, g = inputs.to(backend.device), gradients.to(backend.device)
    w = None if weights is None else weights.to(backend.device)
    with backend.use():
        ops.accumulate_linear(sums.weight, a, g, square, w, sums.bias)
    sums.assert_nothing_else_was_written()
    got_weight, got_bias = sums.added()
    results = []
    for precision in (torch.float64, dtype):
        A, G = inputs.to(precision), gradients.to(precision)
        results.append(
            (summed(G.transpose(1, 2) @ A, square, weights, sets), summed(G.sum(1), square, weights, sets)),
        )
    (want_weight, want_bias), (plain_weight, plain_bias) = results
    assert_near(got_weight, want_weight, plain_weight, dtype)
    if got_bias is not None:
        assert_near(got_bias, want_bias, plain_bias, dtype)


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(backend: Backend, shape: str, dtype: torch.dtype, square: bool) -> None:
    check(backend, *data(*SHAPES[shape], dtype), dtype, square)


@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("shape", ["one row per term", "few rows", "terms longer than a chunk"])
def test_weights_count_every_term_for_every_k(backend: Backend, shape: str, sets: int) -> None:
    inputs, gradients = data(*SHAPES[shape])
    weights = torch.rand(sets, 2 * len(inputs), generator=torch.Generator().manual_seed(0))[:, ::2]  # any strides
    check(backend, inputs, gradients, sets=sets, weights=weights)
    check(backend, inputs, gradients, sets=sets, weights=weights, square=True, bias=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(backend: Backend, dtype: torch.dtype) -> None:
    check(backend, *data(*SHAPES["tokens"], dtype))


def test_float32_is_summed_in_float64_where_the_sums_are(backend: Backend) -> None:
    check(backend, *data(*SHAPES["tokens"]), torch.float64)


def test_strided_tensors_are_read_in_logical_order(backend: Backend) -> None:
    inputs, gradients = data(8, 12, 40, 30)
    check(backend, inputs[::2, :, 1::3], gradients.transpose(1, 2).contiguous().transpose(1, 2)[::2])
    check(backend, inputs.transpose(0, 1), gradients.transpose(0, 1))
    check(backend, inputs[:1].expand(8, -1, -1), gradients)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (3, 0, 4, 5), (0, 1, 4, 5), (2, 3, 4, 0)])
def test_nothing_adds_nothing(backend: Backend, shape: tuple[int, int, int, int]) -> None:
    check(backend, *data(*shape))


def test_a_layer_without_inputs_has_a_bias(backend: Backend) -> None:
    check(backend, *data(3, 4, 0, 5))


def test_any_shape(backend: Backend) -> None:
    @examples(backend, 40)
    @given(
        shape=st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 40), st.integers(1, 40)),
        sets=st.integers(1, 3),
        square=st.booleans(),
        weighted=st.booleans(),
    )
    def run(shape: tuple[int, int, int, int], sets: int, square: bool, weighted: bool) -> None:
        weights = torch.rand(sets, shape[0], generator=torch.Generator().manual_seed(1)) if weighted else None
        check(backend, *data(*shape), square=square, sets=sets, weights=weights)

    run()


def test_inputs_that_require_gradients_leave_the_sums_untracked(backend: Backend) -> None:
    for rows in (1, 3):
        inputs, gradients = (t.to(backend.device).requires_grad_() for t in data(2, rows, 4, 5))
        sums = torch.zeros(1, 5, 4, device=backend.device)
        with backend.use():
            ops.accumulate_linear(sums, inputs, gradients)
        assert not sums.requires_grad and (sums > 0).all()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_gradient_that_is_not_finite_shows_in_its_row(backend: Backend, rows: int, bad: float) -> None:
    inputs, gradients = data(4, rows, 20, 18)
    gradients[2, 0, 7] = bad
    sums = torch.zeros(1, 18, 20, device=backend.device)
    bias = torch.zeros(1, 18, device=backend.device)
    with backend.use():
        ops.accumulate_linear(sums, inputs.to(backend.device), gradients.to(backend.device), bias=bias)
    finite = sums.isfinite()[0].all(1).tolist()
    assert finite == bias.isfinite()[0].tolist() == [o != 7 for o in range(18)]


# --- The C++ kernels ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES | LARGE)
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_every_instruction_set(instructions: str, shape: str, dtype: torch.dtype) -> None:
    weights = torch.rand(2, (SHAPES | LARGE)[shape][0], dtype=dtype, generator=torch.Generator().manual_seed(0))
    with limited(instructions):
        check(Backend("cpu", "cpu"), *data(*(SHAPES | LARGE)[shape], dtype), dtype, sets=2, weights=weights)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_the_number_of_threads_changes_no_bit(instructions: str, shape: str) -> None:
    inputs, gradients = data(*LARGE[shape])
    bias = torch.zeros(1, gradients.shape[2])
    with limited(instructions):
        first, *others = bits_on_threads(
            lambda sums: ops.accumulate_linear(sums, inputs, gradients, bias=bias),
            (1, gradients.shape[2], inputs.shape[2]),
        )
    for other in others:
        assert_same_bits(other, first)


# --- What is refused, and the registration ---

BAD_CALLS = {
    "sums [K, O, I]": lambda a, g, s: ops.accumulate_linear(s[0], a, g),
    "other outputs": lambda a, g, s: ops.accumulate_linear(s, a, g[:, :, 1:]),
    "other inputs": lambda a, g, s: ops.accumulate_linear(s, a[:, :, 1:], g),
    "other terms": lambda a, g, s: ops.accumulate_linear(s, a[1:], g),
    "other rows": lambda a, g, s: ops.accumulate_linear(s, a[:, 1:], g),
    "integer inputs": lambda a, g, s: ops.accumulate_linear(s, a.long(), g.long()),
    "two dtypes": lambda a, g, s: ops.accumulate_linear(s, a, g.double()),
    "half sums": lambda a, g, s: ops.accumulate_linear(s.half(), a, g),
    "weights of another shape": lambda a, g, s: ops.accumulate_linear(s, a, g, weights=torch.ones(1, 4)),
    "bias of another shape": lambda a, g, s: ops.accumulate_linear(s, a, g, bias=torch.zeros(1, 6)),
    "bias of another dtype": lambda a, g, s: ops.accumulate_linear(s, a, g, bias=torch.zeros(1, 5).double()),
    "another device": lambda a, g, s: ops.accumulate_linear(s, a.to("meta"), g),
    "sums with gaps": lambda a, g, s: ops.accumulate_linear(torch.zeros(1, 5, 8)[:, :, ::2], a, g),
    "sums that are inputs": lambda a, g, s: ops.accumulate_linear(a[:1], a, a.new_ones(3, 2, 2)),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_what_does_not_fit_is_refused(case: str) -> None:
    a, g, s = torch.ones(3, 2, 4), torch.ones(3, 2, 5), torch.zeros(1, 5, 4)
    with pytest.raises(ImportanceError, match="^accumulate_linear: "):
        BAD_CALLS[case](a, g, s)
    assert (s == 0).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("rows", [1, 4, 6])
def test_opcheck(backend: Backend, rows: int) -> None:
    inputs, gradients = data(3, rows, 6, 5)
    tensors = (torch.zeros(2, 5, 6), inputs, gradients, torch.ones(2, 3), torch.zeros(2, 5))
    sums, inputs, gradients, weights, bias = (tensor.to(backend.device) for tensor in tensors)
    for square in (False, True):
        opcheck(backend, "accumulate_linear", sums, inputs, gradients, square, weights, bias)
    opcheck(backend, "accumulate_linear", sums, inputs, gradients, False, None, None)
