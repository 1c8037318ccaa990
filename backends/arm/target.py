"""AArch64: its levels, what the CPU has, and the primitives that kernels are written with.

The levels are `neon` (the baseline), `dotprod` (sdot, udot) and `i8mm` (usdot, usmmla). Each includes those before it.
On a Linux host of another architecture they run on an emulator.
"""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.backends import host
from qcompiler.backends.arm.dialect import DIALECT
from qcompiler.backends.arm.instructions import INSTRUCTIONS
from qcompiler.backends.kernel_ir.types import I8, I32, Type, vector
from qcompiler.backends.levels import Level, Levels
from qcompiler.backends.target import Execution, Storage, Target, llvm_triple
from qcompiler.errors import LoweringError, nearest

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.builder import KernelBuilder
    from qcompiler.backends.kernel_ir.ir import Operand, Value
    from qcompiler.backends.runtime.loader import Loader

_IN_PROCESS = ("neon", "dotprod")
"""The levels that the CPU emulated by unicorn has."""
_LINUX_NAMES = {"asimddp": "dotprod", "i8mm": "i8mm"}  # of /proc/cpuinfo
_MACOS_NAMES = {"hw.optional.arm.FEAT_DotProd": "dotprod", "hw.optional.arm.FEAT_I8MM": "i8mm"}  # of sysctl
_TILES_F32 = ((6, 4), (5, 4), (8, 2), (4, 4), (1, 4))


@cache
def cpu_features() -> frozenset[str]:
    """LLVM's names of what this CPU has, as far as the levels need them; empty on another architecture."""
    if host.arch() != "aarch64":
        return frozenset()
    found = {"neon"}
    if host.system() == "linux":
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        words = {word for line in lines if line.startswith("Features") for word in line.partition(":")[2].split()}
        found |= {feature for name, feature in _LINUX_NAMES.items() if name in words}
    elif host.system() == "macos":
        import subprocess

        for name, feature in _MACOS_NAMES.items():
            answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
            if answer.stdout.strip() == "1":
                found.add(feature)
    return frozenset(found)


LEVELS = Levels(
    "aarch64",
    (
        Level(
            name="neon",
            features=("neon",),
            cpu="cortex-a72",
            needs=("neon",),
            vector_bytes=16,
            register_count=32,
            gemm_tiles=((5, 4), (7, 3), (4, 4), (2, 4), (1, 4)),
            gemm_tiles_f32=_TILES_F32,
            dot4_offset=128,
            has_pairwise_dot=True,
        ),
        Level(
            name="dotprod",
            features=("neon", "dotprod"),
            cpu="cortex-a76",
            needs=("neon", "dotprod"),
            vector_bytes=16,
            register_count=32,
            gemm_tiles=((6, 4), (5, 4), (4, 4), (1, 4)),
            gemm_tiles_f32=_TILES_F32,
            k_blocks=(16, 4),
            dot4_offset=128,
        ),
        Level(
            name="i8mm",
            features=("neon", "dotprod", "i8mm"),
            cpu="neoverse-v2",
            needs=("neon", "dotprod", "i8mm"),
            vector_bytes=16,
            register_count=32,
            gemm_tiles=((6, 4), (4, 6), (4, 4), (1, 4)),
            gemm_tiles_f32=_TILES_F32,
            k_blocks=(16, 8, 4),
            dot_depth=8,
        ),
    ),
    cpu_features,
)


def has_unicorn() -> bool:
    """Whether the package that emulates ARM in process is installed."""
    return importlib.util.find_spec("unicorn") is not None


def has_qemu() -> bool:
    """Whether the program that emulates every level is installed."""
    return shutil.which("qemu-aarch64") is not None


@dataclass(frozen=True)
class ArmTarget(Target):
    """A level of AArch64.

    Activations are u8 in memory, as on every target. neon and dotprod multiply signed bytes only, so their `dot4`
    subtracts 128 from activations (it flips the top bit); `dot4_offset` tells kernels so.
    """

    arch = "aarch64"
    levels = LEVELS
    dialect = DIALECT
    instructions = MappingProxyType(INSTRUCTIONS)
    k_blocks_f32 = (4, 1)
    row_group = 1

    @property
    def triple(self) -> str:
        return llvm_triple("arm64" if self.os == "macos" else "aarch64", self.os)

    @property
    def llvm_features(self) -> str:
        used = dict.fromkeys(name for level in self.levels.values() for name in level.needs)
        absent = [name for name in (*used, "sve", "sve2") if name not in self.row.needs]
        return ",".join([*(f"+{name}" for name in sorted(self.row.needs)), *(f"-{name}" for name in absent)])

    @property
    def function_attributes(self) -> str:
        # among LLVM's schedulers, this one keeps a full register file without spilling
        return 'nounwind "tune-cpu"="apple-m1"'

    def execution(self) -> Execution:
        if self.is_native():
            return "native"
        if self.os != "linux" or host.system() != "linux" or host.arch() == "aarch64":
            return "none"
        return "emulated" if (has_unicorn() if self.level in _IN_PROCESS else has_qemu()) else "none"

    @property
    def emulator(self) -> str:
        return "" if self.execution() != "emulated" else "unicorn" if self.level in _IN_PROCESS else "qemu-aarch64"

    def loader(self) -> Loader:
        if self.execution() != "emulated":
            return super().loader()
        if self.level in _IN_PROCESS:
            from qcompiler.backends.arm.emulate import UnicornLoader

            return UnicornLoader(self)
        from qcompiler.backends.arm.qemu import QemuLoader

        return QemuLoader()

    def why_not(self) -> str:
        if host.arch() == "aarch64" or self.os != "linux" or host.system() != "linux" or self.can_run():
            return ""
        if self.level in _IN_PROCESS:
            return "the emulator unicorn is missing: pip install 'qcompiler-ir[arm]'"
        return "the emulator qemu-aarch64 is missing: apt install qemu-user"

    # -- primitives -----------------------------------------------------------------------------------------------

    def masks(self, type: Type) -> bool:
        return False

    def dot4_weights(self, b: KernelBuilder, w: Value, *, pairwise: bool = False) -> tuple[Value, ...]:
        """Gives the whole register; on neon its even and its odd bytes."""
        return (w,) if self.has("dotprod") else _halves(b, w)

    def dot4_activations(self, b: KernelBuilder, x: Value, *, pairwise: bool = False) -> tuple[Value, ...]:
        """Gives the register minus `dot4_offset`; on neon its even and its odd bytes."""
        signed = x ^ -128 if self.dot4_offset else x
        return (signed,) if self.has("dotprod") else _halves(b, signed)

    def dot4(self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]) -> Value:
        """usdot on i8mm, sdot on dotprod. neon: smull of the even bytes and of the odd ones, each added to i32 in pairs
        (sadalp). No i16 ever holds more than one product, and (-128)^2 fits."""
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
        """usmmla."""
        return b.instr("arm.usmmla", acc, x, w) if self.has("i8mm") else super().mmla(b, acc, x, w)

    def sum4(self, b: KernelBuilder, acc: Value, x: Value) -> Value:
        """udot with ones; on neon two pairwise additions."""
        if self.has("dotprod"):
            return b.instr("arm.udot", acc, x, b.const(x.type, 1))
        return acc + b.instr("arm.uaddlp.h", b.instr("arm.uaddlp.b", x))

    def pairwise_dot_is_exact(self, weights: np.ndarray, highest: int = 255) -> bool:
        """128 * (|w0| + |w1|) fits i16 for all activations unless both weights are -128."""
        pairs = np.ascontiguousarray(weights, np.int8).reshape(-1, 2).view(np.int16)
        return not bool((pairs == np.array([-128, -128], np.int8).view(np.int16)).any())

    def dot4_pairwise(
        self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]
    ) -> Value:
        """On neon smull of the even bytes, smlal of the odd ones, and sadalp; otherwise `dot4`."""
        if not self.has_pairwise_dot:
            return self.dot4(b, acc, x, w)
        xs = x if isinstance(x, tuple) else self.dot4_activations(b, x)
        ws = w if isinstance(w, tuple) else self.dot4_weights(b, w)
        even, odd = (b.instr("arm.smull.b", x_part, w_part) for x_part, w_part in zip(xs, ws))
        return acc + b.instr("arm.saddlp.h", even + odd)

    def round_to_i32(self, b: KernelBuilder, x: Value) -> Value:
        return b.convert("lrint", x, I32)

    def narrow(self, b: KernelBuilder, parts: Sequence[Value], storage: Storage) -> Value:
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
        """tbl for the first 64 entries, then three tbx; each leaves the lanes whose code is outside its entries."""
        found = b.instr("arm.tbl4", *table[:4], codes)
        for first in (4, 8, 12):
            found = b.instr("arm.tbx4", found, *table[first : first + 4], codes - 16 * first)
        return found


def _halves(b: KernelBuilder, x: Value) -> tuple[Value, Value]:
    """The even and the odd bytes of a register."""
    return b.shuffle(x, None, list(range(0, 16, 2))), b.shuffle(x, None, list(range(1, 16, 2)))
