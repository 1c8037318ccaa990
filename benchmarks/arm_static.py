"""Writes docs/arm.md: what can be said of speed on ARM without an ARM CPU.

Instructions of each kernel are counted while an emulator runs it. Innermost loops are cut out of the disassembly and
given to llvm-mca, which knows the pipelines of some CPUs; it sees no caches. Wants the packages `unicorn` and llvmlite,
and LLVM's tools from 16 on (llvm-mca).

    python benchmarks/arm_static.py            # writes docs/arm.md
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
from op_costs import graph_of

from qcompiler.backends.arm import emulate
from qcompiler.backends.codegen.jit import disassemble
from qcompiler.backends.kernels import conv
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.target import parse_target
from qcompiler.quantization.cost_profile import elements, products

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "arm.md"
LEVELS = ("neon", "dotprod", "i8mm")
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
"""Multiply-adds of one instruction (a pattern of its name) on full registers, the most first."""
LOOPS = (
    ("conv_u8, linear", conv.conv_u8, {"residual": False, "proven": True}, "gemm_tiles"),
    ("conv_f32, linear", conv.conv_f32, {"residual": False}, "gemm_tiles_f32"),
)


@dataclass(frozen=True)
class InnerLoop:
    """A loop without another inside: its lines of assembly, and which instruction multiplies."""

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
        """What multiplies."""
        found = {line.split()[0] for line in self.instructions if re.match(self.multiply, line.split()[0])}
        return ", ".join(sorted(found))

    @property
    def stack(self) -> int:
        """Accesses to the stack."""
        return sum("[sp" in line for line in self.instructions)

    @property
    def macs(self) -> int:
        """Multiply-adds of one round."""
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


def mca() -> str:
    """The newest llvm-mca."""
    for name in (*(f"llvm-mca-{version}" for version in range(30, 15, -1)), "llvm-mca"):
        if shutil.which(name):
            return name
    sys.exit("llvm-mca is missing: apt install llvm-19")


def cycles(loop: InnerLoop, cpu: str) -> float:
    """Cycles of one round, by llvm-mca."""
    command = [mca(), "-mtriple=aarch64", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm", "-iterations=200"]
    done = subprocess.run(command, input="\n".join(loop.instructions), capture_output=True, text=True, check=True)
    return int(re.search(r"Total Cycles:\s+(\d+)", done.stdout)[1]) / 200


def loop_rows() -> list[str]:
    rows = []
    for level in LEVELS:
        target = parse_target(f"aarch64-linux+{level}")
        for name, kernel, static, tiles in LOOPS:
            for mr, nv in getattr(target, tiles)[:2]:
                pairs = {"pairs": True} if level == "neon" and kernel is conv.conv_u8 else {}
                loop = hottest_loop(disassemble(kernel.build(target, mr=mr, nv=nv, **static, **pairs)))
                count = len(loop.instructions)
                speeds = " | ".join(f"{loop.macs / cycles(loop, cpu):.1f}" for cpu in CPUS.values())
                rows.append(
                    f"| {level} | {name} | {mr} x {nv} | {count} | {loop.multiplies} {loop.name} | {count / loop.multiplies:.3f} "
                    f"| {loop.stack} | {speeds} |"
                )
    return rows


def counts(op: str, quantized: bool, level: str) -> float | None:
    """Instructions for each multiply-add of a weighted op, or each element of another; None if there is no such kernel."""
    wanted = op if op not in ("quantize", "dequantize") else "add"
    graph, inputs = graph_of(wanted, quantized)
    lowered = lower_graph(graph, parse_target(f"aarch64-linux+{level}"))
    bound = lowered.program.bind({})
    bound.run(inputs)
    with emulate.emulator().counted() as found:
        bound.run(inputs)
    if op in ("quantize", "dequantize"):
        spent = [n for n, step in zip(found, bound.steps) if step.kernel.startswith(op)]
        return min(spent) / float(np.prod(inputs[0].shape)) if spent else None
    node = next(value for value in lowered.graph.values() if value.name == "measured").producer
    spent = [
        n
        for n, step in zip(found, bound.steps)
        if step.node == "measured" and not step.kernel.startswith("copy_transposed")
    ]
    return sum(spent) / (products(node) or max(elements(value) for value in (node.operands[0], node.result)))


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

Levels `aarch64+neon`, `aarch64+dotprod` and `aarch64+i8mm` give the bits of every x86 level and, on integer graphs, of the interpreter.
**No ARM CPU has run them here.** The tests run them under emulation on x86: neon and dotprod in process by the package `unicorn`, i8mm by
`qemu-aarch64`; exported objects of all three levels as C programs under `qemu-aarch64`. Speed under emulation says nothing about a CPU;
what follows is what can be said without one.

## Choosing a level

`target="native"` takes the CPU's best level on Linux and macOS. Anywhere, `target="aarch64-linux+dotprod"` compiles for that level; on
another machine `pip install 'qcompiler-ir[arm]'` (neon, dotprod) or `apt install qemu-user` (i8mm) runs it. `qcompiler targets` lists what
runs here, and how.
[Exported objects](object-export.md) need no emulator. `get_default_qconfig("qnnpack")` has torch's settings for ARM.

| level | products | accumulation |
|---|---|---|
| neon | smull of signed bytes, smlal | i16 holds one product, or two where the real weights prove that they fit; then sadalp to i32 |
| dotprod | sdot, four bytes by their place in a register | i32 |
| i8mm | usmmla: two pixels by two channels, eight bytes deep | i32 |

Activations stay u8 in memory on every level. Where the machine multiplies signed bytes only (neon, dotprod), kernels flip the top bit after loading,
and the bias holds 128 times the sum of the weights besides the zero point's share: the same real values, the same i32 sums.

## Inner loops

The innermost loop of the matrix product (convolutions of any window, linear layers), for tiles of pixels x registers of channels.
Multiply-adds a cycle are llvm-mca's, from its models of the pipelines, all data in the nearest cache. LLVM models Cortex-A76 by the pipeline
of Cortex-A57, which is older and slower: its column is a lower bound. A test holds the loops of dotprod to 1.25 instructions for each sdot.

| level | kernel | tile | instructions | of these | instructions each | stack accesses | {cpus} |
|---|---|---|---|---|---|---|{lines}|
{loops}

## Instructions counted

All instructions that ran, divided by multiply-adds or elements: 1x64x56x56 (3x3 windows), linear 196 x 1024 x 1024, matmul 8 x 128 x 64 x 128.
i8mm is not counted: the emulator that knows it has no counter.

| op | for each | neon int8 | neon float | dotprod int8 | dotprod float |
|---|---|---|---|---|---|
{counted}
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(
        TEXT.format(
            cpus=" | ".join(f"{name}, MAC/cycle" for name in CPUS),
            lines="---|" * (len(CPUS) - 1) + "---",
            loops="\n".join(loop_rows()),
            counted="\n".join(count_rows()),
        )
    )
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
