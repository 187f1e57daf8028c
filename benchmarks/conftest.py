"""The benchmarks run on the same backends as the tests, without Triton's interpreter, whose time says nothing."""

from helpers.backends import pytest_generate_tests  # noqa: F401
