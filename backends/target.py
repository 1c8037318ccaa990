"""What a target is, and how its name is read.

Owns the `Target` protocol that kernels, the emitter and lowering see, the `Instruction` declaration, and target names:
`arch[-os][+level]`, or `native`. Each architecture's own facts are in backends/<arch>/.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from qcompiler import knobs
from qcompiler.backends.kernel_ir.types import F32, I1, Type, vector
from qcompiler.errors import LoweringError, nearest

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.builder import KernelBuilder
    from qcompiler.backends.kernel_ir.ir import Operand, Value

Execution = Literal["native", "emulated", "none"]
_ARCHITECTURES = {"x86-64": "qcompiler.backends.x86.target", "aarch64": "qcompiler.backends.arm.target"}
_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "aarch64", "arm64": "aarch64"}
_SYSTEMS = {"linux": "unknown-linux-gnu", "macos": "apple-macosx11.0.0", "windows": "pc-windows-msvc"}


@dataclass(frozen=True)
class Instruction:
    """One hardware instruction: its name, the feature it needs, how LLVM spells it and what it computes.

    llvm: an intrinsic with exactly `operands` -> `result`. meaning: on numpy arrays of the operands' types (integers
    held signed), gives an array of the result's type.
    """

    name: str
    feature: str
    llvm: str
    operands: tuple[Type, ...]
    result: Type
    meaning: Callable[..., np.ndarray]
    doc: str


class Target(ABC):
    """A machine as kernels see it. Equal targets (same name and extra features) compare equal and share code.

    Attributes:
        arch, os: the parts of the name before the level.
        level: the ISA level; results never depend on it.
        features: names that `has` answers for: the level, those it includes, and extras found on the host.
        vector_bytes, register_count: of the vector register file that kernels should fill.
        gemm_tiles: (mr, nv) register tiles for `dot4` kernels, mr rows by nv vectors, best first.
        gemm_tiles_f32: the same for f32 dot products (splat x, vector w, one product and sum a lane).
        dot4_storage: "u8" or "i8", how activations are stored for `dot4`.
        dot_steps: how many bytes of K the loops of a product take at a time, most first; the last is 4, the others
            whole registers.
        dot_depth: bytes of K of one channel that lie side by side in packed weights: 4, or 8 where products take two
            rows at once (`mmla`).
        widened_weights: whether packed weights of products are i16, as `dot4_weights` gives them: there the work is not
            repeated in each tile.
        streams: whether stores past the caches pay for results that do not stay there until they are read.
        pack_saturates: whether `pack_bytes` clamps to 0 and 255.
        fma_steps: how many floats of K the loops of a product take at a time; the last is 1, the others whole
            registers.
        row_group: rows of a tile that one moving pointer serves, see `builder.Rows`.
        dot4_offset: what `dot4` takes away from each activation: 0, or 128 where the machine multiplies signed bytes
            only.
        instructions: every instruction that the architecture declares, by name.
    """

    arch: str
    os: str
    level: str
    features: frozenset[str]
    vector_bytes: int
    register_count: int
    gemm_tiles: tuple[tuple[int, int], ...]
    gemm_tiles_f32: tuple[tuple[int, int], ...]
    dot4_storage: str
    dot4_offset: int = 0
    dot_steps: tuple[int, ...] = (4,)
    dot_depth: int = 4
    widened_weights: bool = False
    streams: bool = False
    pack_saturates: bool = False
    fma_steps: tuple[int, ...] = (1,)
    row_group: int = 3
    instructions: Mapping[str, Instruction]

    @property
    def name(self) -> str:
        """`x86-64+avx2`; with the os where it is not the host's."""
        system = "" if self.os == host_os() else f"-{self.os}"
        return f"{self.arch}{system}+{self.level}"

    @property
    def key(self) -> str:
        """The name and every feature that changes code: what caches of kernels are keyed by."""
        return f"{self.name}({','.join(sorted(self.features))})"

    @property
    def machine(self) -> str:
        """What LLVM is told to generate code for, as a part of such keys."""
        return f"{self.triple} {self.cpu} {self.llvm_features}"

    @property
    def f32_lanes(self) -> int:
        """f32 values in one vector register."""
        return self.vector_bytes // 4

    @property
    def i32_lanes(self) -> int:
        """i32 values in one vector register."""
        return self.vector_bytes // 4

    def has(self, feature: str) -> bool:
        """Whether code for this target may use the feature (a level's name, or an extra such as `vbmi`)."""
        return feature in self.features

    def instruction(self, name: str) -> Instruction:
        """The declaration of an instruction; LoweringError with the nearest name if there is none."""
        if name not in self.instructions:
            raise LoweringError(f"{self.arch} has no instruction {name!r}", hint=nearest(name, self.instructions))
        return self.instructions[name]

    # -- code generation: all that the emitter and the JIT need ---------------------------------------------------

    @property
    @abstractmethod
    def triple(self) -> str:
        """LLVM's target triple."""

    @property
    @abstractmethod
    def cpu(self) -> str:
        """LLVM's CPU name: sets the level's baseline of features and the scheduling model."""

    @property
    @abstractmethod
    def llvm_features(self) -> str:
        """LLVM's feature string (`+avx512vnni,-prefer-256-bit`)."""

    @property
    @abstractmethod
    def function_attributes(self) -> str:
        """Attributes that every emitted function carries, as LLVM text."""

    @abstractmethod
    def execution(self) -> Execution:
        """How this process executes code for the target."""

    @property
    def emulator(self) -> str:
        """What executes code for the target where `execution` is "emulated"; else empty."""
        return ""

    def can_run(self) -> bool:
        """Whether this process can execute code for the target, emulated or not."""
        return self.execution() != "none"

    def why_not(self) -> str:
        """What to do where `execution` is "none"; empty if nothing helps."""
        return ""

    # -- primitives: emitted by kernels through `b.target` --------------------------------------------------------

    @abstractmethod
    def masks(self, type: Type) -> bool:
        """Whether masked loads and stores of this vector type are single instructions."""

    @abstractmethod
    def dot4_weights(self, b: KernelBuilder, w: Value, *, pairs: bool = False) -> tuple[Value, ...]:
        """A weight vector as `dot4` wants it (pairs: `dot4_pairs_safe`); do it once per loaded vector, outside the
        rows."""

    @abstractmethod
    def dot4_activations(self, b: KernelBuilder, x: Value, *, pairs: bool = False) -> tuple[Value, ...]:
        """An activation vector as `dot4` wants it (pairs: `dot4_pairs_safe`); do it once per row."""

    @abstractmethod
    def dot4(self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]) -> Value:
        """acc[i] + sum of (x[4i + j] - dot4_offset) * w[4i + j], j < 4, exact in i32 (wraps). acc <n x i32>, x and w
        <4n x i8>: x as `dot4_storage` says, w i8; n is `i32_lanes`: one register. x and w may come prepared."""

    def mmla(self, b: KernelBuilder, acc: Value, x: Value, w: Value) -> Value:
        """Where `dot_depth` is 8: acc[2i + j] + sum of x[8i + k] * w[8j + k], k < 8, for two rows i of x (u8) and two
        channels j of w (i8)."""
        raise LoweringError(f"{self.key} multiplies no two rows at once", hint="dot4")

    @abstractmethod
    def sum4(self, b: KernelBuilder, acc: Value, x: Value) -> Value:
        """acc[i] + x[4i] + ... + x[4i + 3], of unsigned bytes."""

    @property
    def adds_pairs(self) -> bool:
        """Whether `dot4_pairs_safe` is faster than `dot4` where it is exact."""
        return False

    @abstractmethod
    def pairs_safe(self, weights: np.ndarray, highest: int = 255) -> bool:
        """Whether `dot4_pairs_safe` is exact for these i8 weights (any shape; the last axis is in groups of four), with
        activations of 0 to `highest`."""

    @abstractmethod
    def dot4_pairs_safe(
        self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]
    ) -> Value:
        """dot4, by the faster sequence that is exact only where `pairs_safe(weights)` holds."""

    @abstractmethod
    def round_to_i32(self, b: KernelBuilder, x: Value) -> Value:
        """<n x f32> to <n x i32>, ties to even; the values fit (clamped before)."""

    @abstractmethod
    def narrow(self, b: KernelBuilder, parts: Sequence[Value], storage: str) -> Value:
        """<n x i32> vectors to one vector of bytes, in order, saturating to "u8" or "i8". 1, 2 or 4 parts."""

    @abstractmethod
    def pack_words(self, b: KernelBuilder, x: Value, y: Value) -> Value:
        """Two registers of i32 to one of i16, saturating. Within each 128 bits of the result come four lanes of x, then
        four of y: so if x and y hold channels in `pair_order`, the result holds them in order."""

    @abstractmethod
    def dot2(self, b: KernelBuilder, acc: Value, x: Value, y: Value) -> Value:
        """acc[i] + x[2i] * y[2i] + x[2i + 1] * y[2i + 1]: registers of i32 and of i16, exact for terms of 15 bits."""

    @abstractmethod
    def pack_bytes(self, b: KernelBuilder, x: Value, y: Value) -> Value:
        """Two registers of i16, 0 to 255 (any, where `pack_saturates`), to one of bytes. Within each 128 bits of the
        result come eight lanes of x, then eight of y."""

    @abstractmethod
    def load_table(self, b: KernelBuilder, pointer: Value, offset: Operand = 0) -> list[Value]:
        """A table of 256 bytes, as values for `lookup`; do it once, outside the loop."""

    @abstractmethod
    def make_table(self, b: KernelBuilder, entries: Sequence[Value]) -> list[Value]:
        """A table of 256 bytes that are in registers, as values for `lookup`."""

    @property
    def fast_lookup(self) -> bool:
        """Whether `lookup` takes a few instructions."""
        return False

    @abstractmethod
    def lookup(self, b: KernelBuilder, table: Sequence[Value], codes: Value) -> Value:
        """table[code] for each byte (unsigned) of one register: <vector_bytes x i8>."""

    def broadcast4(self, b: KernelBuilder, pointer: Value, offset: Operand = 0, *, disp: int = 0) -> Value:
        """Four bytes of memory in every i32 lane of a register: a row's operand of `dot4`."""
        from qcompiler.backends.kernel_ir.types import I8, I32

        four = b.load(I32, pointer, offset, disp=disp)
        return b.bitcast(b.splat(four, self.i32_lanes), vector(I8, self.vector_bytes))

    def pair_order(self) -> list[int]:
        """Which of 2n channels each lane of two registers of n lanes holds, so that `pack_words` brings them in order."""
        blocks = self.i32_lanes // 4
        return [8 * block + 4 * half + lane for half in range(2) for block in range(blocks) for lane in range(4)]

    def interleaved(self, b: KernelBuilder, x: Value, y: Value) -> tuple[Value, Value]:
        """x and y lane by lane, within each 128 bits: the low halves of all blocks, then the high halves. Words give
        pairs in `pair_order`."""
        lanes, per_block = x.type.lanes, 128 // x.type.element.bits
        found = []
        for half in range(2):
            first = [
                per_block * block + per_block // 2 * half + lane
                for block in range(lanes // per_block)
                for lane in range(per_block // 2)
            ]
            found.append(b.shuffle(x, y, [lane + side * lanes for lane in first for side in range(2)]))
        return found[0], found[1]

    def words_above_2_23(self, b: KernelBuilder, words: Value) -> tuple[Value, Value]:
        """2^23 + word in f32 for a register of unsigned i16 lanes, exact, as two registers in `pair_order`: the words
        become the low halves of floats whose exponent is 23."""
        floats = vector(F32, words.type.lanes // 2)
        low, high = self.interleaved(b, words, b.const(words.type, 0x4B00))
        return b.bitcast(low, floats), b.bitcast(high, floats)

    def f32_vector(self) -> Type:
        """One register of f32."""
        return vector(F32, self.f32_lanes)

    def mask(self, lanes: int) -> Type:
        return vector(I1, lanes)


def host_os() -> str:
    """The os part of the host's target name."""
    return {"linux": "linux", "darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)


def host_arch() -> str:
    """The architecture part of the host's target name; LoweringError on a machine without a backend."""
    machine = platform.machine().lower()
    if machine not in _MACHINES:
        raise LoweringError(f"no backend for {machine}", hint='target="reference" runs the interpreter')
    return _MACHINES[machine]


def llvm_triple(llvm_arch: str, system: str) -> str:
    """`x86_64` and `linux` as LLVM's triple."""
    return f"{llvm_arch}-{_SYSTEMS[system]}"


def _backend(arch: str):  # type: ignore[no-untyped-def]
    """The module of an architecture: `LEVELS` (names, lowest first), `make_target(level, os, extras)`,
    `host_level()`."""
    try:
        return importlib.import_module(_ARCHITECTURES[arch])
    except ModuleNotFoundError as error:
        raise LoweringError(f"the {arch} backend is not installed", got=str(error)) from None


def known_targets() -> list[str]:
    """Every name without an os, lowest level first."""
    names = []
    for arch in _installed():
        names += [f"{arch}+{level}" for level in _backend(arch).LEVELS]
    return names


def _installed() -> list[str]:
    return [arch for arch, module in _ARCHITECTURES.items() if importlib.util.find_spec(module.rpartition(".")[0])]


def host_level(arch: str | None = None) -> str:
    """The highest level that this process can run, or the one that QC_ISA pretends."""
    return _backend(arch or host_arch()).host_level()


def native_target() -> Target:
    """The host at its highest level, QC_ISA considered."""
    arch = host_arch()
    return _backend(arch).make_target(host_level(arch), host_os(), native=True)


def parse_target(text: str, *, exact: bool = False) -> Target:
    """A target by name: `native`, or `arch[-os][+level]` (os: the host's by default; level: the lowest by default, but
    the host's own if arch and os are the host's). exact: a named level is taken without extras that the host has, so
    that the code runs wherever the level does. LoweringError with the nearest name otherwise."""
    if text == "native":
        return native_target()
    known = ["native", *known_targets()]
    match = re.fullmatch(r"(?P<arch>.+?)(?:-(?P<os>linux|macos|windows))?(?:\+(?P<level>[\w.]+))?", text)
    arch = match["arch"] if match else ""
    if match is None or arch not in _installed():
        raise LoweringError(f"unknown target {text!r}", hint=nearest(text, known))
    module, system = _backend(arch), match["os"] or host_os()
    host = system == host_os() and _MACHINES.get(platform.machine().lower()) == arch
    level = match["level"] or (module.host_level() if host else module.LEVELS[0])
    if level not in module.LEVELS:
        raise LoweringError(f"unknown level {level!r} of {arch}", got=text, hint=nearest(f"{arch}+{level}", known))
    return module.make_target(level, system, native=host and not exact)


def pretended_level() -> str | None:
    """The level that QC_ISA names (`avx2` or `x86-64+avx2`), read at each call."""
    return (knobs.ISA.get() or "").rpartition("+")[2] or None
