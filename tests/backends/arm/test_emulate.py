"""The emulator: what stops a kernel, code that replaces other code, several Python threads at once, and kernels on many
threads."""

from __future__ import annotations

import concurrent.futures
import ctypes
import gc
import importlib.util

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.backends import host
from qcompiler.backends.arm import emulate
from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.types import I64
from qcompiler.backends.target import parse_target
from qcompiler.errors import LoweringError
from tests.backends.kernel_ir.ir_kernels import scale
from tests.backends.levels import call, load
from tests.backends.signatures import XY, Y

NEON = parse_target("aarch64-linux+neon")
pytestmark = pytest.mark.skipif(
    host.arch() == "aarch64" or host.system() != "linux" or importlib.util.find_spec("unicorn") is None,
    reason="AArch64 is emulated on Linux of another architecture, where the package is installed",
)
STORE, RETURN, UNDEFINED = 0xF9000001, 0xD65F03C0, 0x00000000  # str x1, [x0]; ret; udf #0


def code(*words: int) -> np.ndarray:
    return np.array(words, np.uint32)


def put(value: int) -> np.ndarray:
    """The code of f(x0): movz x1, #value; str x1, [x0]; ret."""
    return code(0xD2800001 | value << 5, STORE, RETURN)


def test_calls_reach_this_process_memory() -> None:
    function, place = put(40961), np.zeros(3, np.int64)
    emulate.forget_code()
    emulate.call(function.ctypes.data, place[1:].ctypes.data)
    assert place.tolist() == [0, 40961, 0]


@kernel
def copy_word(b: KernelBuilder, a: XY) -> None:
    b.store(b.load(I64, a.x), a.y)


@pytest.mark.parametrize("missing", ["x", "y"])
def test_memory_that_nothing_has_is_an_error(missing: str) -> None:
    """Touching memory that is not mapped gives an error instead of a crash, and the next call works."""
    (compiled,) = load([copy_word.build(NEON)])
    x, y = np.array([77]), np.zeros(1, np.int64)
    addresses = {"x": x.ctypes.data, "y": y.ctypes.data, missing: 4096}
    bases = (ctypes.c_void_p * 2)(addresses["x"], addresses["y"])
    args = compiled.function.pack_args(x=(0, 0), y=(1, 0))
    with pytest.raises(LoweringError, match="the emulated kernel stopped") as caught:
        emulate.call(compiled.address, args.ctypes.data, ctypes.addressof(bases), 0, 1)
    assert "bytes behind its entry" in str(caught.value) and "unmapped" in str(caught.value.got).lower()
    call(compiled, [x, y])
    assert y[0] == 77


def test_an_unknown_instruction_is_an_error() -> None:
    function, place = code(RETURN, UNDEFINED, RETURN), np.zeros(1, np.int64)
    emulate.forget_code()
    emulate.call(function.ctypes.data, place.ctypes.data)
    with pytest.raises(LoweringError, match="the emulated kernel stopped") as caught:
        emulate.call(function[1:].ctypes.data, place.ctypes.data)
    assert caught.value.got
    emulate.call(function.ctypes.data, place.ctypes.data)


def test_code_where_other_code_was_is_seen() -> None:
    memory, place = put(1), np.zeros(1, np.int64)
    for value in range(1, 6):
        memory[:] = put(value)
        emulate.forget_code()
        emulate.call(memory.ctypes.data, place.ctypes.data)
        assert place[0] == value


@kernel
def constant(b: KernelBuilder, a: Y, *, value: int) -> None:
    b.store(b.i64(value), a.y)


@pytest.mark.exhaustive  # twelve compilations for the emulator
def test_kernels_at_the_addresses_of_dead_ones_are_seen() -> None:
    addresses = []
    for value in range(12):
        (compiled,) = load([constant.build(NEON, value=value)])
        y = np.full(1, -1, np.int64)
        call(compiled, [y])
        assert y[0] == value
        addresses.append(compiled.address)
        del compiled
        gc.collect()
    assert len(set(addresses)) < len(addresses), "no address was used twice: this test saw nothing"


def test_python_threads_at_once() -> None:
    """Each Python thread compiles and calls kernels of its own."""

    def work(seed: int) -> bool:
        (compiled,) = load([scale.build(NEON, lanes=4 << seed % 3)])
        x = np.random.default_rng(seed).standard_normal(101).astype(np.float32)
        for _ in range(5):
            y = np.zeros(101, np.float32)
            call(compiled, [x, y], threads=2, n=101, alpha=seed)
            if not np.array_equal(y, x * np.float32(seed)):
                return False
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(1, 17)))


def test_one_model_from_python_threads_at_once() -> None:
    graph = qc.parse("""qcompiler 1
graph g(%x: f32[B,64]) stage=float {
  %a = softmax(%x) {axis=1} : f32[B,64]
  %b = exp(%a) : f32[B,64]
  return %b
}
""")
    model, native = (
        qc.compile(graph, None, target=target, threads=2) for target in ("aarch64-linux+dotprod", "native")
    )
    inputs = [np.random.default_rng(seed).standard_normal((3 + seed, 64)).astype(np.float32) for seed in range(8)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = list(pool.map(model, inputs))
    assert all(one.tobytes() == native(x).tobytes() for one, x in zip(got, inputs))
