"""Triton kernels, one operation per file: the GPU path of an installation that had no nvcc. Installed as
`potion_fast.kernels`. Nothing here is imported, and Triton is not, before `potion_fast.ops` chooses this backend."""

from __future__ import annotations


def interpreted() -> bool:
    """Do these kernels run in Triton's interpreter (TRITON_INTERPRET=1 when they were first imported)?"""
    from triton.runtime import JITFunction

    from .dampen import dampen_kernel

    return not isinstance(dampen_kernel, JITFunction)
