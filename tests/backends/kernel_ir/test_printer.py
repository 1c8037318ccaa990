"""Kernel IR prints the same text every time: golden files, renewed with --update-golden."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from qcompiler.backends.kernel_ir.ir import KernelFunction
from qcompiler.backends.target import parse_target
from tests.backends.kernel_ir.ir_kernels import gemm, scale

CASES = {
    "gemm_avx2": (gemm, "x86-64-linux+avx2", {"mr": 2, "nv": 1}),
    "gemm_avx512": (gemm, "x86-64-linux+avx512", {"mr": 2, "nv": 2, "safe": True}),
    "scale_avx2": (scale, "x86-64-linux+avx2", {"lanes": 8}),
}


def _build(name: str) -> KernelFunction:
    definition, target, static = CASES[name]
    return definition.build(parse_target(target), **static)


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, golden: Callable[..., None]) -> None:
    golden(str(_build(name)), "kir")


def test_text_is_the_same_in_another_process() -> None:
    code = "import test_printer as t; print(*(t._build(name) for name in t.CASES), sep='', end='')"
    run = [sys.executable, "-c", code]
    here = str(pathlib.Path(__file__).parent)
    root = str(pathlib.Path(__file__).parents[3])
    outputs = {
        subprocess.run(
            run, cwd=here, env={"PYTHONHASHSEED": seed, "PYTHONPATH": root}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {"".join(str(_build(name)) for name in CASES)}
