"""Triton kernels, one operation per file: the GPU backend of an installation built without nvcc.

Installed as `potion_fast.kernels`. Neither these modules nor Triton are imported before `potion_fast.ops` chooses this
backend.
"""

from __future__ import annotations


def interpreted() -> bool:
    """Whether these kernels run in Triton's interpreter (TRITON_INTERPRET=1 when they were first imported)."""
    from triton.runtime import JITFunction

    from .dampen import dampen_kernel

    return not isinstance(dampen_kernel, JITFunction)


def interpreter_problem() -> str:
    """The reason why Triton's interpreter cannot run these kernels; empty if it can (triton-lang/triton#9171)."""
    import numpy
    import triton

    def release(version: str) -> tuple[int, ...]:
        return tuple(int(number) for number in version.split(".")[:2])

    if release(triton.__version__) >= (3, 7) or release(numpy.__version__) < (2, 4):
        return ""
    return (
        f"the interpreter of Triton {triton.__version__} fails with NumPy {numpy.__version__}: "
        "install Triton 3.7 or newer, or NumPy below 2.4"
    )
