"""AArch64: its levels, what the CPU has, and the primitives that kernels are written with.

Levels, each including those before it: `neon` (the baseline), `dotprod` (sdot, udot), `i8mm` (usdot). On a host of
another architecture they run in process on an emulator (`emulate.py`).
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.backends.arm.instructions import INSTRUCTIONS
from qcompiler.backends.kernel_ir.types import I8, I32, Type, vector
from qcompiler.backends.target import Execution, Target, host_arch, host_os, llvm_triple, pretended_level
from qcompiler.errors import LoweringError, nearest

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.builder import KernelBuilder
    from qcompiler.backends.kernel_ir.ir import Operand, Value

LEVELS = ("neon", "dotprod", "i8mm")
_IN_PROCESS = ("neon", "dotprod")
"""What the CPU that unicorn emulates has."""
_LINUX_NAMES = {"asimddp": "dotprod", "i8mm": "i8mm"}  # of /proc/cpuinfo
_MACOS_NAMES = {"hw.optional.arm.FEAT_DotProd": "dotprod", "hw.optional.arm.FEAT_I8MM": "i8mm"}  # of sysctl
_TILES = {
    "neon": ((5, 4), (7, 3), (4, 4), (2, 4), (1, 4)),
    "dotprod": ((6, 4), (5, 4), (4, 4), (1, 4)),
    "i8mm": ((6, 4), (4, 6), (4, 4), (1, 4)),
}
_TILES_F32 = ((6, 4), (5, 4), (8, 2), (4, 4), (1, 4))


@functools.cache
def cpu_features() -> frozenset[str]:
    """Which levels this CPU has; empty on another architecture."""
    if host_arch() != "aarch64":
        return frozenset()
    found = {"neon"}
    if host_os() == "linux":
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        words = {word for line in lines if line.startswith("Features") for word in line.partition(":")[2].split()}
        found |= {level for name, level in _LINUX_NAMES.items() if name in words}
    elif host_os() == "macos":
        import subprocess

        for name, level in _MACOS_NAMES.items():
            answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
            if answer.stdout.strip() == "1":
                found.add(level)
    return frozenset(found)


def host_level() -> str:
    """The highest level this process can run. QC_ISA pretends a weaker CPU; asking for more than there is is an error."""
    pretended = pretended_level()
    if pretended is not None:
        if pretended not in LEVELS:
            raise LoweringError(f"QC_ISA names an unknown level {pretended!r}", hint=nearest(pretended, LEVELS))
        if pretended not in cpu_features():
            raise LoweringError(
                f"QC_ISA={pretended} is more than this CPU has", hint="unset QC_ISA, or name a lower level"
            )
        return pretended
    return max(cpu_features() or {"neon"}, key=LEVELS.index)


def make_target(level: str, os: str, *, native: bool) -> ArmTarget:
    """The target of a level."""
    return ArmTarget(level, os)


def has_unicorn() -> bool:
    """Whether the package that emulates ARM in process is installed."""
    return importlib.util.find_spec("unicorn") is not None


def has_qemu() -> bool:
    """Whether the program that emulates ARM, i8mm too, is installed."""
    return shutil.which("qemu-aarch64") is not None


@dataclass(frozen=True)
class ArmTarget(Target):
    """A level of AArch64. Activations stay u8 in memory; where the machine multiplies signed bytes only, `dot4` takes
    them less 128 and says so in `dot4_offset`."""

    level: str
    os: str
    arch = "aarch64"
    dot4_storage = "u8"
    vector_bytes = 16
    register_count = 32
    row_group = 1
    fma_steps = (4, 1)
    gemm_tiles_f32 = _TILES_F32
    instructions = MappingProxyType(INSTRUCTIONS)

    @property
    def features(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset(LEVELS[: LEVELS.index(self.level) + 1])

    @property
    def gemm_tiles(self) -> tuple[tuple[int, int], ...]:  # type: ignore[override]
        return _TILES[self.level]

    @property
    def dot_steps(self) -> tuple[int, ...]:  # type: ignore[override]
        return {"neon": (4,), "dotprod": (16, 4), "i8mm": (16, 8, 4)}[self.level]

    @property
    def dot_depth(self) -> int:  # type: ignore[override]
        return 8 if self.has("i8mm") else 4

    @property
    def dot4_offset(self) -> int:
        return 0 if self.has("i8mm") else 128

    @property
    def triple(self) -> str:
        return llvm_triple("arm64" if self.os == "macos" else "aarch64", self.os)

    @property
    def cpu(self) -> str:
        return {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "neoverse-v2"}[self.level]

    @property
    def llvm_features(self) -> str:
        present = ",".join(f"+{name}" for name in sorted(self.features))
        return present + "".join(f",-{name}" for name in (*LEVELS, "sve", "sve2") if name not in self.features)

    @property
    def function_attributes(self) -> str:
        # of LLVM's schedulers the one that keeps a full register file without spilling
        return 'nounwind "tune-cpu"="apple-m1"'

    def execution(self) -> Execution:
        if host_arch() == "aarch64" and self.os == host_os():
            return "native" if self.level in cpu_features() and self.level in _shown() else "none"
        if self.os != "linux" or host_os() != "linux" or host_arch() == "aarch64":
            return "none"
        return "emulated" if (has_unicorn() if self.level in _IN_PROCESS else has_qemu()) else "none"

    @property
    def emulator(self) -> str:
        return "" if self.execution() != "emulated" else "unicorn" if self.level in _IN_PROCESS else "qemu-aarch64"

    def why_not(self) -> str:
        if host_arch() == "aarch64" or self.os != "linux" or host_os() != "linux" or self.can_run():
            return ""
        if self.level in _IN_PROCESS:
            return "the emulator unicorn is missing: pip install 'qcompiler-ir[arm]'"
        return "the emulator qemu-aarch64 is missing: apt install qemu-user"

    # -- primitives -----------------------------------------------------------------------------------------------

    def masks(self, type: Type) -> bool:
        return False

    def dot4_weights(self, b: KernelBuilder, w: Value, *, pairs: bool = False) -> tuple[Value, ...]:
        """neon: the even and the odd bytes."""
        return (w,) if self.has("dotprod") else _halves(b, w)

    def dot4_activations(self, b: KernelBuilder, x: Value, *, pairs: bool = False) -> tuple[Value, ...]:
        """Signed unless i8mm; neon: the even and the odd bytes."""
        signed = x ^ -128 if self.dot4_offset else x
        return (signed,) if self.has("dotprod") else _halves(b, signed)

    def dot4(self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]) -> Value:
        """sdot, or usdot with i8mm. neon: smull of the even bytes, of the odd ones, each added in pairs to i32
        (sadalp): no i16 ever holds more than one product, and (-128)^2 fits."""
        xs = x if isinstance(x, tuple) else self.dot4_activations(b, x)
        ws = w if isinstance(w, tuple) else self.dot4_weights(b, w)
        if self.has("i8mm"):
            return b.instr("arm.usdot", acc, xs[0], ws[0])
        if self.has("dotprod"):
            return b.instr("arm.sdot", acc, ws[0], xs[0])
        for x_part, w_part in zip(xs, ws):
            acc = acc + b.instr("arm.saddlp.h", b.instr("arm.smull.b", x_part, w_part))
        return acc

    def mmla(self, b: KernelBuilder, acc: Value, x: Value, w: Value) -> Value:
        return b.instr("arm.usmmla", acc, x, w) if self.has("i8mm") else super().mmla(b, acc, x, w)

    def sum4(self, b: KernelBuilder, acc: Value, x: Value) -> Value:
        """udot with ones; neon: two pairwise additions."""
        if self.has("dotprod"):
            return b.instr("arm.udot", acc, x, b.const(x.type, 1))
        return acc + b.instr("arm.uaddlp.h", b.instr("arm.uaddlp.b", x))

    @property
    def adds_pairs(self) -> bool:
        return self.level == "neon"

    def pairs_safe(self, weights: np.ndarray, highest: int = 255) -> bool:
        """128 * (|w0| + |w1|) fits i16 unless both are -128, whatever the activations."""
        pairs = np.ascontiguousarray(weights, np.int8).reshape(-1, 2).view(np.int16)
        return not bool((pairs == np.array([-128, -128], np.int8).view(np.int16)).any())

    def dot4_pairs_safe(
        self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]
    ) -> Value:
        """neon: smull of the even bytes, smlal of the odd ones, sadalp. Else dot4."""
        if self.level != "neon":
            return self.dot4(b, acc, x, w)
        xs = x if isinstance(x, tuple) else self.dot4_activations(b, x)
        ws = w if isinstance(w, tuple) else self.dot4_weights(b, w)
        even, odd = (b.instr("arm.smull.b", x_part, w_part) for x_part, w_part in zip(xs, ws))
        return acc + b.instr("arm.saddlp.h", even + odd)

    def round_to_i32(self, b: KernelBuilder, x: Value) -> Value:
        return b.convert("lrint", x, I32)

    def narrow(self, b: KernelBuilder, parts: Sequence[Value], storage: str) -> Value:
        if storage not in ("u8", "i8"):
            raise LoweringError(f"no storage {storage!r}", hint=nearest(storage, ["u8", "i8"]))
        low, high = (0, 255) if storage == "u8" else (-128, 127)
        return b.concat([b.trunc(b.clamp(part, low, high), I8) for part in parts])

    def pack_words(self, b: KernelBuilder, x: Value, y: Value) -> Value:
        """sqxtn, sqxtn2."""
        return b.concat([b.instr("arm.sqxtn", x), b.instr("arm.sqxtn", y)])

    def dot2(self, b: KernelBuilder, acc: Value, x: Value, y: Value) -> Value:
        """smull, smull2 and addp."""
        products = [b.instr("arm.smull.h", b.slice(x, start, 4), b.slice(y, start, 4)) for start in (0, 4)]
        return acc + b.instr("arm.addp", *products)

    def pack_bytes(self, b: KernelBuilder, x: Value, y: Value) -> Value:
        """xtn, xtn2."""
        return b.concat([b.trunc(x, I8), b.trunc(y, I8)])

    def load_table(self, b: KernelBuilder, pointer: Value, offset: Operand = 0) -> list[Value]:
        """Sixteen registers of 16 entries."""
        return [b.load(vector(I8, 16), pointer, offset, disp=16 * row) for row in range(16)]

    def make_table(self, b: KernelBuilder, entries: Sequence[Value]) -> list[Value]:
        return list(entries)

    @property
    def fast_lookup(self) -> bool:
        return True

    def lookup(self, b: KernelBuilder, table: Sequence[Value], codes: Value) -> Value:
        """tbl over the first 64 entries, tbx over the others: a code that is not theirs keeps what was found."""
        found = b.instr("arm.tbl4", *table[:4], codes)
        for first in (4, 8, 12):
            found = b.instr("arm.tbx4", found, *table[first : first + 4], codes - 16 * first)
        return found


def _shown() -> tuple[str, ...]:
    """The levels that QC_ISA leaves."""
    pretended = pretended_level()
    return LEVELS if pretended not in LEVELS else LEVELS[: LEVELS.index(pretended) + 1]


def _halves(b: KernelBuilder, x: Value) -> tuple[Value, Value]:
    """The even and the odd bytes of a register."""
    return b.shuffle(x, None, list(range(0, 16, 2))), b.shuffle(x, None, list(range(1, 16, 2)))
