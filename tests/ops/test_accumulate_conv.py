"""accumulate_conv: every kernel agrees with float64 as well as PyTorch does, and writes nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from helpers.backends import Backend, assert_same_bits, opcheck
from helpers.products import INSTRUCTIONS, Sums, assert_near, bits_on_threads, examples, limited, summed
from potion_fast import ops
from potion_fast.errors import ImportanceError
from potion_fast.ops.accumulate_conv import channels_last

CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
DTYPES = [torch.float32, torch.float64]


@dataclass(frozen=True)
class Case:
    """A batch and a convolution; the numbers of spatial dimensions agree."""

    batch: int
    C: int
    O: int  # noqa: E741
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    samples: int = 1

    @property
    def geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
        n = len(self.size)
        return self.stride or (1,) * n, self.padding or (0,) * n, self.dilation or (1,) * n, self.groups

    @property
    def shape(self) -> tuple[int, ...]:
        return self.O, self.C // self.groups, *self.kernel

    def data(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.batch + 10 * self.C + 100 * self.O + sum(self.size))
        inputs = torch.randn(self.batch, self.C, *self.size, generator=generator)
        output = CONVOLVE[len(self.size) - 1](inputs, torch.zeros(self.shape), None, *self.geometry).shape
        return inputs.to(dtype), torch.randn(output, generator=generator).to(dtype)


CASES = {
    "one of everything": Case(1, 1, 1, (1,), (1,)),
    "1d": Case(4, 5, 7, (17,), (3,), (2,), (1,)),
    "2d": Case(4, 6, 9, (9, 8), (3, 3), (1, 1), (1, 1)),
    "3d": Case(2, 3, 5, (5, 6, 7), (2, 3, 3), (1, 2, 1), (1, 0, 1)),
    "three channels": Case(3, 3, 16, (10, 10), (3, 3), (1, 1), (1, 1)),
    "dilation": Case(2, 5, 8, (12, 13), (3, 2), (2, 1), (2, 3), (2, 3)),
    "more padding than input": Case(2, 4, 5, (2, 3), (3, 3), (1, 1), (4, 5)),
    "steps over the input": Case(2, 4, 5, (9, 9), (2, 2), (4, 3)),
    "1x1 with stride": Case(3, 33, 10, (6, 7), (1, 1), (2, 2)),
    "channels across panels": Case(2, 40, 15, (6, 6), (3, 3), (1, 1), (1, 1)),
    "groups": Case(3, 12, 8, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1), 4),
    "depthwise": Case(3, 37, 37, (8, 9), (3, 3), (2, 1), (1, 2), (1, 2), 37),
    "depthwise 1d": Case(2, 5, 5, (9,), (4,), (1,), (3,), (1,), 5),
    "depthwise 3d": Case(2, 6, 6, (4, 5, 6), (3, 2, 3), (1, 1, 2), (1, 0, 2), (1, 2, 1), 6),
    "depthwise with a multiplier": Case(2, 5, 10, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1), 5),
    "three samples to a term": Case(6, 6, 9, (9, 8), (3, 3), (1, 1), (1, 1), samples=3),
    "the whole batch as one term": Case(4, 6, 9, (9, 8), (3, 3), (1, 1), (1, 1), samples=4),
    "depthwise, two samples to a term": Case(4, 9, 9, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), 9, 2),
}
LARGE = {  # several blocks, splits and chunks
    "first layer": Case(6, 3, 64, (32, 32), (3, 3), (1, 1), (1, 1)),
    "5x5": Case(8, 40, 70, (20, 20), (5, 5), (2, 2), (2, 2)),
    "residual": Case(20, 72, 64, (16, 16), (3, 3), (1, 1), (1, 1)),
    "small pictures": Case(30, 130, 40, (4, 4), (3, 3), (1, 1), (1, 1)),
    "one large term": Case(16, 48, 40, (16, 16), (3, 3), (1, 1), (1, 1), samples=16),
    "many groups": Case(4, 64, 64, (12, 12), (3, 3), (1, 1), (1, 1), (1, 1), 16),
    "depthwise": Case(6, 200, 200, (14, 14), (7, 7), (1, 1), (3, 3), (1, 1), 200),
}


def per_term(case: Case, inputs: Tensor, gradients: Tensor) -> Tensor:
    """[N, O, C / groups, *kernel]: PyTorch's weight gradient of each term."""
    stride, padding, dilation, groups = case.geometry
    weight, zeros = inputs.new_zeros(case.shape), [0] * len(case.size)
    return torch.stack(
        [
            torch.ops.aten.convolution_backward(
                g, a, weight, None, stride, padding, dilation, False, zeros, groups, [False, True, False]
            )[1]
            for a, g in zip(inputs.split(case.samples), gradients.split(case.samples), strict=True)
        ]
    )


def check(
    backend: Backend,
    case: Case,
    inputs: Tensor,
    gradients: Tensor,
    dtype: torch.dtype = torch.float32,
    square: bool = False,
    sets: int = 1,
    weights: Tensor | None = None,
    bias: bool = True,
) -> None:
    """The sums and the bias of one call, against float64 and against PyTorch in the dtype of the sums."""
    sums = Sums(sets, case.shape, dtype, backend.device, bias)
    a, g = inputs.to(backend.device), gradients.to(backend.device)
    w = None if weights is None else weights.to(backend.device)
    with backend.use():
        ops.accumulate_conv(sums.weight, a, g, case.samples, *case.geometry, square, w, sums.bias)
    sums.assert_nothing_else_was_written()
    got_weight, got_bias = sums.added()
    want_weight, plain_weight = (
        summed(per_term(case, inputs.to(t), gradients.to(t)), square, weights, sets) for t in (torch.float64, dtype)
    )
    assert_near(got_weight, want_weight, plain_weight, dtype)
    if got_bias is not None:
        terms = gradients.flatten(2).transpose(1, 2).reshape(-1, case.samples, *gradients.flatten(2).shape[:0:-1])
        want_bias, plain_bias = (summed(terms.to(t).sum((1, 2)), square, weights, sets) for t in (torch.float64, dtype))
        assert_near(got_bias, want_bias, plain_bias, dtype)


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_float64(backend: Backend, name: str, dtype: torch.dtype, square: bool) -> None:
    check(backend, CASES[name], *CASES[name].data(dtype), dtype, square)


@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("name", ["2d", "depthwise", "three samples to a term"])
def test_weights_count_every_term_for_every_k(backend: Backend, name: str, sets: int) -> None:
    case = CASES[name]
    weights = torch.rand(2 * case.batch // case.samples, sets, generator=torch.Generator().manual_seed(0))[::2].T
    check(backend, case, *case.data(), sets=sets, weights=weights)
    check(backend, case, *case.data(), sets=sets, weights=weights, square=True, bias=False)


@pytest.mark.parametrize("name", ["2d", "depthwise"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(backend: Backend, name: str, dtype: torch.dtype) -> None:
    check(backend, CASES[name], *CASES[name].data(dtype))


def test_float32_is_summed_in_float64_where_the_sums_are(backend: Backend) -> None:
    check(backend, CASES["2d"], *CASES["2d"].data(), torch.float64)


@pytest.mark.parametrize("name", ["2d", "three channels", "groups", "depthwise"])
def test_any_memory_format(backend: Backend, name: str) -> None:
    case = CASES[name]
    inputs, gradients = case.data()
    last = {"memory_format": torch.channels_last}
    check(backend, case, inputs.contiguous(**last), gradients.contiguous(**last))
    check(backend, case, inputs.contiguous(**last), gradients)
    wider = torch.randn(case.batch, case.C + 3, *(2 * n for n in case.size))
    wider[:, 2:-1, ::2, 1::2] = inputs
    check(backend, case, wider[:, 2:-1, ::2, 1::2], gradients)
    expanded = gradients[..., :1, :1].expand(gradients.shape)  # as the gradient of a mean over positions is
    check(backend, case, inputs, expanded)


def test_an_empty_batch_adds_nothing(backend: Backend) -> None:
    for name in ("2d", "depthwise"):
        case = replace(CASES[name], batch=0)
        size = CASES[name].data()[1].shape[1:]
        sums = Sums(2, case.shape, torch.float32, backend.device, True)
        a, g = torch.zeros(0, case.C, *case.size), torch.zeros(0, *size)
        with backend.use():
            ops.accumulate_conv(
                sums.weight, a.to(backend.device), g.to(backend.device), 1, *case.geometry, bias=sums.bias
            )
        sums.assert_nothing_else_was_written()
        weight, bias = sums.added()
        assert bias is not None and (weight == 0).all() and (bias == 0).all()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any geometry with some output."""
    dimensions = draw(st.integers(1, 3))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    groups, samples = draw(st.sampled_from([1, 1, 2, 5])), draw(st.integers(1, 3))
    case = Case(
        batch=samples * draw(st.integers(1, 3)),
        C=groups * draw(st.integers(1, 9)),
        O=groups * draw(st.integers(1, 9)),
        size=sizes(1, 8),
        kernel=sizes(1, 3),
        stride=sizes(1, 3),
        padding=sizes(0, 3),
        dilation=sizes(1, 3),
        groups=groups,
        samples=samples,
    )
    stride, padding, dilation, _ = case.geometry
    assume(
        all(n + 2 * p >= d * (k - 1) + 1 for n, p, d, k in zip(case.size, padding, dilation, case.kernel, strict=True))
    )
    return case


def test_any_geometry(backend: Backend) -> None:
    @examples(backend, 60)
    @given(case=cases(), square=st.booleans(), weighted=st.booleans())
    def run(case: Case, square: bool, weighted: bool) -> None:
        weights = torch.rand(2, case.batch // case.samples, generator=torch.Generator().manual_seed(1))
        check(backend, case, *case.data(), square=square, sets=2, weights=weights if weighted else None)

    run()


def test_inputs_that_require_gradients_leave_the_sums_untracked(backend: Backend) -> None:
    case = CASES["2d"]
    inputs, gradients = (t.to(backend.device).requires_grad_() for t in case.data())
    sums = torch.zeros(1, *case.shape, device=backend.device)
    with backend.use():
        ops.accumulate_conv(sums, inputs, gradients, 1, *case.geometry)
    assert not sums.requires_grad and (sums > 0).all()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("name", ["2d", "depthwise"])
@pytest.mark.parametrize("position", [0, -1])
def test_a_gradient_that_is_not_finite_shows_in_its_channel(
    backend: Backend, name: str, position: int, bad: float
) -> None:
    """At a border, where padding meets it, it may also turn up as a NaN; other channels stay finite."""
    case = CASES[name]
    inputs, gradients = case.data()
    gradients[1, 4, position, position] = bad
    sums, bias = torch.zeros(1, *case.shape, device=backend.device), torch.zeros(1, case.O, device=backend.device)
    with backend.use():
        ops.accumulate_conv(sums, inputs.to(backend.device), gradients.to(backend.device), 1, *case.geometry, bias=bias)
    finite = sums.isfinite()[0].flatten(1).all(1).tolist()
    assert finite == bias.isfinite()[0].tolist() == [o != 4 for o in range(case.O)]


# --- The C++ kernels ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES | LARGE)
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_every_instruction_set(instructions: str, name: str, dtype: torch.dtype) -> None:
    case = (CASES | LARGE)[name]
    weights = torch.rand(2, case.batch // case.samples, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with limited(instructions):
        check(Backend("cpu", "cpu"), case, *case.data(dtype), dtype, sets=2, weights=weights)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_the_number_of_threads_changes_no_bit(instructions: str, name: str) -> None:
    case = LARGE[name]
    inputs, gradients = case.data()

    def call(sums: Tensor) -> None:
        ops.accumulate_conv(sums, inputs, gradients, case.samples, *case.geometry)

    with limited(instructions):
        first, *others = bits_on_threads(call, (1, *case.shape))
    for other in others:
        assert_same_bits(other, first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 33), (2, 5, 1000), (70, 40, 64), (0, 3, 4), (3, 0, 4)])
def test_channels_last_copies(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    if ops.native is None:
        pytest.skip(ops.native_problem)
    images = torch.randn(shape).to(dtype)
    for memory in (images, images.flip(0)):
        assert_same_bits(channels_last(memory, dtype).flatten(), memory.movedim(1, -1).flatten())


# --- What is refused, and the registration ---


def call(sums: Tensor, inputs: Tensor, gradients: Tensor, **changed: object) -> None:
    arguments: dict[str, object] = {"samples": 1, "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    ops.accumulate_conv(sums, inputs, gradients, **(arguments | changed))  # type: ignore[arg-type]


BAD_CALLS = {
    "sums of four dimensions": lambda a, g, s: call(s[0], a, g),
    "a flat gradient": lambda a, g, s: call(s, a, g.flatten(2)),
    "other outputs": lambda a, g, s: call(s, a, g[:, 1:]),
    "other channels": lambda a, g, s: call(s, a[:, 1:], g),
    "other batch": lambda a, g, s: call(s, a[1:], g),
    "other positions": lambda a, g, s: call(s, a, g[..., 1:]),
    "other padding": lambda a, g, s: call(s, a, g, padding=[0, 1]),
    "one stride": lambda a, g, s: call(s, a, g, stride=[1]),
    "no stride": lambda a, g, s: call(s, a, g, stride=[1, 0]),
    "negative padding": lambda a, g, s: call(s, a, g, padding=[1, -1]),
    "samples that do not divide": lambda a, g, s: call(s, a, g, samples=3),
    "no samples": lambda a, g, s: call(s, a, g, samples=0),
    "groups that do not divide": lambda a, g, s: call(s, a, g, groups=2),
    "no groups": lambda a, g, s: call(s, a, g, groups=0),
    "weights per sample": lambda a, g, s: call(s, a, g, samples=2, weights=torch.ones(1, 4)),
    "bias of another shape": lambda a, g, s: call(s, a, g, bias=torch.zeros(1, 4)),
    "two dtypes": lambda a, g, s: call(s, a.double(), g),
    "another device": lambda a, g, s: call(s, a, g.to("meta")),
    "sums with gaps": lambda a, g, s: call(torch.zeros(1, 5, 3, 3, 6)[..., ::2], a, g),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_what_does_not_fit_is_refused(case: str) -> None:
    a, g, s = torch.ones(4, 3, 6, 7), torch.ones(4, 5, 6, 7), torch.zeros(1, 5, 3, 3, 3)
    with pytest.raises(ImportanceError, match="^accumulate_conv: "):
        BAD_CALLS[case](a, g, s)
    assert (s == 0).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ["1d", "2d", "3d", "depthwise"])
def test_opcheck(backend: Backend, name: str) -> None:
    case = CASES[name]
    sums, inputs, gradients, weights, bias = (
        tensor.to(backend.device)
        for tensor in (torch.zeros(2, *case.shape), *case.data(), torch.ones(2, case.batch), torch.zeros(2, case.O))
    )
    geometry: list[Sequence[int] | int] = [list(case.geometry[i]) for i in range(3)]  # type: ignore[arg-type]
    arguments = (sums, inputs, gradients, 1, *geometry, case.groups)
    opcheck(backend, "accumulate_conv", *arguments, False, weights, bias)
    opcheck(backend, "accumulate_conv", *arguments, False, None, None)
    opcheck(backend, "accumulate_conv", *arguments, True, weights, bias)
