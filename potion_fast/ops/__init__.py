"""Operations on importances and weights, with a kernel per backend.

`reference.py` defines what every operation computes; `<op>.py` holds an operation's public function, its checks, its
launches and its registration with PyTorch; `_dispatch.py` chooses the kernel. The kernels give the bits of the
reference, but for the two products and the two sums of norm layers, which add in another order and agree as two matrix
products do.

Kernels see raw pointers, so arguments are checked first: what is written must be contiguous and must not share memory
with what is read; what is only read may have any strides.
"""

from ._checks import is_dense
from ._dispatch import BACKENDS, KERNELS, Choice, chosen, missing
from .accumulate import accumulate
from .accumulate_conv import accumulate_conv
from .accumulate_linear import accumulate_linear
from .channel_sums import channel_sums
from .dampen import dampen
from .dampen_many import dampen_many
from .native import native, native_problem
from .partition import partition
from .put import put, take
from .row_sums import row_sums
from .select import select
from .select_and_partition import select_and_partition

OPS = tuple(sorted(KERNELS))

__all__ = [
    "BACKENDS",
    "KERNELS",
    "OPS",
    "Choice",
    "accumulate",
    "accumulate_conv",
    "accumulate_linear",
    "channel_sums",
    "chosen",
    "dampen",
    "dampen_many",
    "is_dense",
    "missing",
    "native",
    "native_problem",
    "partition",
    "put",
    "row_sums",
    "select",
    "select_and_partition",
    "take",
]
