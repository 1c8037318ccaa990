"""The emulator in another process: what it runs, and what happens when it fails."""

from __future__ import annotations

import mmap
import os
import signal
import threading

import numpy as np
import pytest

from qcompiler.backends.arm import qemu
from qcompiler.backends.arm.elf import ObjectFile
from qcompiler.backends.arm.qemu_machine import Machine
from qcompiler.backends.codegen.jit import emit_object_of_text
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.runtime.loader import Bases, MemoryBlock, StepTable
from qcompiler.backends.target import parse_target
from qcompiler.errors import LoweringError
from qcompiler.ir import Graph
from qcompiler.types import DType, TensorType

I8MM = parse_target("aarch64-linux+i8mm")
NEON = parse_target("aarch64-linux+neon")
pytestmark = pytest.mark.skipif(
    I8MM.emulator != qemu.PROGRAM, reason="qemu-aarch64 is not installed, or this is an ARM machine"
)


def compiled(text: str) -> bytes:
    return emit_object_of_text(f'target triple = "{NEON.triple}"\n' + text, NEON)


def relu() -> Graph:
    graph = Graph("relu")
    x = graph.add_input("x", TensorType(DType.F32, (1000,)))
    graph.set_outputs(graph.create("relu", [x], types=x.type).results)
    return graph


@pytest.fixture
def machine():
    made = Machine()
    yield made
    made.stop()


STORE = (
    "define void @store(i64 %place, i64 %value, i64 %c, i64 %d) "
    "{ %p = inttoptr i64 %place to ptr store i64 %value, ptr %p ret void }"
)


def test_memory_and_calls(machine):
    function = machine.load(compiled(STORE), "store")
    machine.start()
    machine.map(1 << 40, 1 << 20)
    data = bytes(range(256)) * 4096
    machine.fill(1 << 40, data)
    assert machine.give((1 << 40) + 5, 1000) == data[5:1005]
    machine.call(function, (1 << 40) + 8, 0x0102030405060708)
    assert machine.give(1 << 40, 24) == data[:8] + bytes(range(8, 0, -1)) + data[16:24]


def test_constants_tables_and_calls_between_functions_are_relocated(machine):
    text = """
@numbers = internal constant [4 x i64] [i64 3, i64 5, i64 7, i64 11], align 32
@pointer = internal constant ptr @numbers
define internal i64 @pick(i64 %i) noinline {
  %table = load volatile ptr, ptr @pointer
  %p = getelementptr i64, ptr %table, i64 %i
  %v = load i64, ptr %p
  ret i64 %v
}
define void @f(i64 %place, i64 %i, i64 %c, i64 %d) {
  %v = call i64 @pick(i64 %i)
  %w = load volatile i64, ptr getelementptr (i64, ptr @numbers, i64 1)
  %sum = add i64 %v, %w
  %p = inttoptr i64 %place to ptr
  store i64 %sum, ptr %p
  ret void
}
"""
    function = machine.load(compiled(text), "f")
    machine.start()
    machine.map(1 << 40, 4096)
    for index, value in enumerate((3, 5, 7, 11)):
        machine.call(function, 1 << 40, index)
        assert int.from_bytes(machine.give(1 << 40, 8), "little") == value + 5


def test_a_function_that_is_not_there_is_named():
    text = "declare void @elsewhere(i64)\ndefine void @f(i64 %a) { call void @elsewhere(i64 %a) ret void }"
    with pytest.raises(LoweringError, match="needs elsewhere"):
        ObjectFile(compiled(text)).image(0x1000)


def test_the_process_comes_back_after_a_fault(machine):
    function = machine.load(compiled(STORE), "store")
    machine.start()
    with pytest.raises(LoweringError, match="stopped") as caught:
        machine.call(function, 64, 1)
    assert "signal" in str(caught.value) and "qemu-aarch64" in str(caught.value)
    machine.start()
    machine.map(1 << 40, 4096)
    machine.call(function, 1 << 40, 42)
    assert machine.give(1 << 40, 1) == b"*"


def test_a_killed_process_is_replaced():
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    lowered = lower_graph(relu(), I8MM)
    for _ in range(2):
        assert np.array_equal(lowered.run([x], {})[0], np.maximum(x, 0))
        os.kill(qemu._machine._process.pid, signal.SIGKILL)
        qemu._machine._process.wait()


def test_an_interrupted_run_leaves_no_answers(monkeypatch):
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    lowered = lower_graph(relu(), I8MM)
    lowered.run([x], {})
    with monkeypatch.context() as patch:
        patch.setattr(Machine, "give", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lowered.run([x], {})
    assert np.array_equal(lowered.run([x], {})[0], np.maximum(x, 0))


def test_threads_take_turns():
    lowered, wrong = lower_graph(relu(), I8MM), []

    def work(seed: int) -> None:
        for round in range(10):
            x = np.random.default_rng(seed + round).normal(size=1000).astype(np.float32)
            if not np.array_equal(lowered.run([x], {})[0], np.maximum(x, 0)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


POKE = """
define void @poke(ptr %args, ptr %bases, i64 %thread, i64 %threads) {
  %base = load ptr, ptr %bases
  %offset = load i64, ptr %args
  %p = getelementptr i8, ptr %base, i64 %offset
  store i64 7, ptr %p
  ret void
}
"""


def test_guard_pages_fault_and_keep_their_place():
    memory = mmap.mmap(-1, 3 * mmap.PAGESIZE)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    poke = qemu.load(compiled(POKE), "poke")

    def run(offset: int, guards: list[int]) -> None:
        bases = Bases([MemoryBlock(3 * mmap.PAGESIZE, True)], guards)
        bases.words[0] = start
        table = StepTable([poke], [0], [False], np.array([offset], np.int64))
        qemu.QemuLoader().run(table, 0, 1, bases, 1, 0)

    for offset in (0, 4096, 8192):
        run(offset, [])
        assert memory[offset] == 7
    run(8200, [start + 4096])
    assert memory[8200] == 7
    with pytest.raises(LoweringError, match="stopped"):
        run(4200, [start + 4096])
    assert memory[4200] == 0


def test_a_missing_emulator_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("qcompiler.backends.arm.target.has_qemu", lambda: False)
    assert I8MM.execution() == "none" and "apt install qemu-user" in I8MM.why_not()
    with pytest.raises(LoweringError, match="can't run") as caught:
        lower_graph(relu(), I8MM)
    assert "apt install qemu-user" in str(caught.value)
