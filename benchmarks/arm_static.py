"""Write docs/arm.md: what can be said about speed on ARM without an ARM CPU.

The instructions of each kernel are counted while an emulator runs it. Innermost loops are cut out of the disassembly
and given to llvm-mca, which knows the pipelines of some CPUs but sees no caches. This needs the package `unicorn`, and
llvm-mca from LLVM 16 or newer.

    python benchmarks/arm_static.py
"""

from __future__ import annotations

import datetime
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from op_costs import graph_of

from qcompiler.backends.arm import emulate
from qcompiler.backends.codegen.jit import disassemble
from qcompiler.backends.kernels import conv
from qcompiler.backends.kernels.recurrent import lstm
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.rules.recurrent import Packing
from qcompiler.backends.target import parse_target
from qcompiler.quantization.cost_profile import elements, products

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "arm.md"
LEVELS = ("neon", "dotprod", "i8mm")
OLDEST_LLVM = 16
"""The first LLVM whose llvm-mca has a pipeline for each of `CPUS`."""
COUNTED = (
    "conv",
    "depthwise",
    "linear",
    "matmul",
    "add",
    "mul",
    "max_pool",
    "avg_pool",
    "adaptive_avg_pool",
    "softmax",
    "sigmoid",
    "hardswish",
    "concat",
    "resize",
    "quantize",
    "dequantize",
)
CPUS = {"Cortex-A76": "cortex-a76", "Neoverse N1": "neoverse-n1", "Neoverse V2": "neoverse-v2"}
PRODUCTS = {"usmmla": 32, "sdot": 16, "usdot": 16, "smull|smlal": 8, "fmla": 4}
"""Instruction, as a pattern of its name -> the multiply-adds that it does on full registers, in descending order."""
LOOPS = (
    ("conv_u8, linear", conv.conv_u8, {"residual": None, "proven": True}, "gemm_tiles"),
    ("conv_f32, linear", conv.conv_f32, {"residual": False}, "gemm_tiles_f32"),
    ("dynamic_linear", conv.conv_u8_dynamic, {"bias": True}, "gemm_tiles"),
)
STATES = (1, 8)
"""The batches whose tiles of the product with the states of an lstm are shown."""


@dataclass(frozen=True)
class InnerLoop:
    """A loop that contains no other: its lines of assembly, and the pattern of its multiplying instruction."""

    lines: tuple[str, ...]
    multiply: str

    @property
    def instructions(self) -> list[str]:
        return [line for line in self.lines if line.startswith("\t") and not line.strip().startswith(".")]

    @property
    def multiplies(self) -> int:
        return sum(bool(re.match(self.multiply, line.split()[0])) for line in self.instructions)

    @property
    def name(self) -> str:
        """The instructions that multiply."""
        found = {line.split()[0] for line in self.instructions if re.match(self.multiply, line.split()[0])}
        return ", ".join(sorted(found))

    @property
    def stack(self) -> int:
        """The number of accesses to the stack."""
        return sum("[sp" in line for line in self.instructions)

    @property
    def macs(self) -> int:
        """The number of multiply-adds in one iteration."""
        return self.multiplies * PRODUCTS[self.multiply]


def hottest_loop(text: str) -> InnerLoop:
    """The innermost loop with the most multiply-adds."""
    lines, labels, found = text.splitlines(), {}, []
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = number
        branch = re.match(r"\s+(?:b|b\.\w+|cbn?z|tbn?z)\s+(?:\w+, )?(?:#\d+, )?(\.L\w+)", line)
        if branch and branch[1] in labels:
            body = tuple(lines[labels[branch[1]] : number + 1])
            if sum(bool(re.match(r"\.L\w+:", each)) for each in body) == 1:
                used = next(
                    (name for name in PRODUCTS if any(re.match(rf"\s+(?:{name})", each) for each in body)), None
                )
                if used:
                    found.append(InnerLoop(body, used))
    return max(found, key=lambda loop: loop.macs)


@cache
def mca() -> tuple[str, int]:
    """The name of the newest llvm-mca that is installed, and its LLVM's version. Exits if none knows the pipelines in
    `CPUS`."""
    found = {}
    for name in ("llvm-mca", *(f"llvm-mca-{version}" for version in range(OLDEST_LLVM, OLDEST_LLVM + 20))):
        if shutil.which(name):
            text = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout
            version = re.search(r"LLVM version (\d+)", text)
            found[name] = int(version[1]) if version else 0
    newest = max(found, key=lambda name: found[name], default=None)
    if newest is None or found[newest] < OLDEST_LLVM:
        have = "none is installed" if newest is None else f"{newest} is of LLVM {found[newest]}"
        sys.exit(f"llvm-mca of LLVM {OLDEST_LLVM} or newer is needed, and {have}: apt install llvm-19")
    return newest, found[newest]


def cycles(loop: InnerLoop, cpu: str) -> float:
    """Cycles per iteration, estimated by llvm-mca."""
    command = [mca()[0], "-mtriple=aarch64", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm", "-iterations=200"]
    done = subprocess.run(command, input="\n".join(loop.instructions), capture_output=True, text=True, check=True)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if found is None:
        sys.exit(f"llvm-mca printed no cycles:\n{done.stdout}")
    return int(found[1]) / 200


def loops(level: str) -> Iterator[tuple[str, int, int, InnerLoop]]:
    """(kernel, mr, nv, its innermost loop) for the first two tiles of each kernel of a level, and for those of the
    states."""
    target = parse_target(f"aarch64-linux+{level}")
    for name, kernel, static, tiles in LOOPS:
        for mr, nv in getattr(target, tiles)[:2]:
            pairs = {"pairs": True} if level == "neon" and kernel is not conv.conv_f32 else {}
            yield name, mr, nv, hottest_loop(disassemble(kernel.build(target, mr=mr, nv=nv, **static, **pairs)))
    for rows in STATES:
        tile = Packing.of(target, 4, 512, rows)
        built = lstm.build(target, mr=tile.mr, nv=tile.nv, codes="row", pairs=level == "neon")
        yield "lstm of codes, 4 gates", tile.mr, 4 * tile.nv, hottest_loop(disassemble(built))


def loop_rows() -> list[str]:
    rows = []
    for level in LEVELS:
        for name, mr, nv, loop in loops(level):
            count = len(loop.instructions)
            cells = [level, name, f"{mr} x {nv}", count, f"{loop.multiplies} {loop.name}"]
            cells += [f"{count / loop.multiplies:.3f}", loop.stack]
            cells += [f"{loop.macs / cycles(loop, cpu):.1f}" for cpu in CPUS.values()]
            rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows


def counts(op: str, quantized: bool, level: str) -> float | None:
    """Instructions per multiply-add of an op with weights, or per element of another op; None if it has no kernel."""
    wanted = op if op not in ("quantize", "dequantize") else "add"
    graph, inputs = graph_of(wanted, quantized)
    lowered = lower_graph(graph, parse_target(f"aarch64-linux+{level}"))
    bound = lowered.bind({})
    bound.run(inputs)
    with emulate.emulator().counted() as found:
        bound.run(inputs)
    if op in ("quantize", "dequantize"):
        spent = [n for n, step in zip(found, bound.image.steps) if step.kernel.startswith(op)]
        return min(spent) / float(np.prod(inputs[0].shape)) if spent else None
    node = next(value for value in lowered.graph.values() if value.name == "measured").producer
    spent = [
        n
        for n, step in zip(found, bound.image.steps)
        if step.node == "measured" and not step.kernel.startswith("copy_transposed")
    ]
    assert node is not None  # graph_of() measures the result of a node
    size = products(node) or max(elements(value) for value in (*node.operands[:1], node.result) if value is not None)
    return sum(spent) / size


def count_rows() -> list[str]:
    rows = []
    for op in COUNTED:
        cells = []
        for level in LEVELS[:2]:
            for quantized in (True, False):
                value = counts(op, quantized, level) if quantized or op not in ("quantize", "dequantize") else None
                cells.append("" if value is None else f"{value:.3f}")
        unit = "multiply-add" if op in ("conv", "depthwise", "linear", "matmul") else "element"
        rows.append(f"| {op} | {unit} | {' | '.join(cells)} |")
    return rows


TEXT = """\
# ARM

Written by `python benchmarks/arm_static.py`.

The levels `aarch64+neon`, `aarch64+dotprod` and `aarch64+i8mm` give the same bits as every x86 level and, on
integer graphs, as the interpreter. **No ARM CPU has run them yet.** The tests run them under emulation on x86: neon
and dotprod in the process, by the package `unicorn`; i8mm by `qemu-aarch64`; and exported objects of all three
levels as C programs under `qemu-aarch64`. Speed under emulation says nothing about a CPU. This page gives what can
be said without one.

## Choosing a level

On Linux and macOS, `target="native"` takes the best level that the CPU has. A level
includes the ones before it, so a CPU that reports i8mm but no dotprod gets neon. `target="aarch64-linux+dotprod"`
compiles for that level on any machine; to run the result on another architecture, install `'qcompiler-ir[arm]'`
with pip (neon, dotprod) or `qemu-user` with apt (i8mm). `qcompiler targets` lists what runs on this machine, and
how. [Exported objects](object-export.md) need no emulator. `get_default_qconfig("qnnpack")` has torch's settings
for ARM.

| level | products | accumulation |
|---|---|---|
| neon | smull and smlal of signed bytes | one product in i16, or two if the weights prove that both fit; then i32 |
| dotprod | sdot: four bytes at a time, one operand by its index in a register | i32 |
| i8mm | usmmla: two pixels by two channels, eight bytes deep | i32 |

Activations are u8 in memory on every level. On neon and dotprod, which multiply signed bytes only, kernels flip the
top bit after loading, and the bias includes 128 times the sum of the weights. The i32 sums are the same.

## Inner loops

These are the innermost loops of the matrix product (convolutions with any window, linear layers), for tiles of
pixels x registers of channels. llvm-mca (of LLVM {llvm}, {date}) computes multiply-adds per cycle from its models of
the pipelines, with all data in the nearest cache. LLVM models Cortex-A76 by the pipeline of Cortex-A57, which is
older and slower, so that column is a lower bound. A test holds the loops of dotprod to at most 1.25 instructions per
sdot. `lstm of codes` is the product of the states with the weights of a register's four gates, for one row and for a
batch; dynamic_linear is that of the matrix product with a scale for each row. Tests hold them to floors too.

| level | kernel | tile | instructions | multiplies | instructions per multiply | stack accesses | {cpus} |
|---|---|---|---|---|---|---|{lines}|
{loops}

## Instructions counted

The number of instructions that ran, divided by multiply-adds or by elements. Images are 1 x 64 x 56 x 56 (with 3x3
windows), linear is 196 x 1024 x 1024, matmul is 8 x 128 x 64 x 128. i8mm is not counted, because qemu has no
counter.

| op | per | neon int8 | neon float | dotprod int8 | dotprod float |
|---|---|---|---|---|---|
{counted}
"""


def main() -> None:
    """Write docs/arm.md."""
    mca()
    PAGE.write_text(
        TEXT.format(
            cpus=" | ".join(f"{name}, MAC/cycle" for name in CPUS),
            llvm=mca()[1],
            date=datetime.date.today(),
            lines="---|" * (len(CPUS) - 1) + "---",
            loops="\n".join(loop_rows()),
            counted="\n".join(count_rows()),
        )
    )
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
