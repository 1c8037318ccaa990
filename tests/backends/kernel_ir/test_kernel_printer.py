"""Kernel IR prints the same text every time: golden files, renewed with --update-golden."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from qcompiler.backends.kernel_ir.ir import KernelFunction
from qcompiler.backends.target import parse_target
from tests.backends.kernel_ir.ir_kernels import gemm, scale

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "kernel_ir"
CASES = {
    "gemm_avx2": (gemm, "x86-64-linux+avx2", {"mr": 2, "nv": 1}),
    "gemm_avx512vnni": (gemm, "x86-64-linux+avx512", {"mr": 2, "nv": 2, "safe": True}),
    "scale_avx2": (scale, "x86-64-linux+avx2", {"lanes": 8}),
}


def _build(name: str) -> KernelFunction:
    definition, target, static = CASES[name]
    return definition.build(parse_target(target), **static)


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    text, path = str(_build(name)), GOLDEN / f"{name}.kir"
    if request.config.getoption("--update-golden", default=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_text_is_the_same_in_another_process() -> None:
    code = "import test_kernel_printer as t; print(*(t._build(name) for name in t.CASES), sep='', end='')"
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
