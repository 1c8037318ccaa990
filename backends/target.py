"""What a target is, and how its name is read.

Owns the `Target` class that kernels, the emitter and lowering see, the `Instruction` declaration, and target names:
`arch[-os][+level]`, or `native`. Each architecture's own facts are in backends/<arch>/: its levels and primitives in
`target.py`, its instructions in `instructions.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from qcompiler.backends import host
from qcompiler.backends.kernel_ir.types import F32, I1, I8, I32, Type, vector
from qcompiler.backends.levels import Level, Levels, Tiles
from qcompiler.errors import LoweringError, nearest

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.builder import KernelBuilder
    from qcompiler.backends.kernel_ir.ir import Operand, Value
    from qcompiler.backends.runtime.dispatcher import Dialect
    from qcompiler.backends.runtime.loader import Loader

Execution = Literal["native", "emulated", "none"]
Storage = Literal["u8", "i8"]
_ARCHITECTURES = {  # the module and the class of each architecture's targets
    "x86-64": ("qcompiler.backends.x86.target", "X86Target"),
    "aarch64": ("qcompiler.backends.arm.target", "ArmTarget"),
}
_SYSTEMS = {"linux": "unknown-linux-gnu", "macos": "apple-macosx11.0.0", "windows": "pc-windows-msvc"}


@dataclass(frozen=True)
class Instruction:
    """One hardware instruction: its name, the feature it needs, its LLVM intrinsic and what it computes.

    llvm: an intrinsic that takes exactly `operands` and gives `result`. meaning: the same on numpy arrays of the
    operands' types (integers are held signed); it returns an array of the result's type.
    """

    name: str
    feature: str
    llvm: str
    operands: tuple[Type, ...]
    result: Type
    meaning: Callable[..., np.ndarray]
    doc: str


@dataclass(frozen=True)
class Target(ABC):
    """A machine as kernels see it. Targets with the same name and features are equal and share code.

    Attributes:
        level: the ISA level. Results never depend on it.
        os: the operating system, as in the target's name.
        features: the names that `has` answers for: the level, those that it includes, and extras found on the host.
        arch: the architecture's part of the name.
        levels: the architecture's levels.
        instructions: every instruction that the architecture declares, by name.
        dialect: what the architecture adds to the LLVM text of the dispatcher and of exported entry points.
        streams: whether non-temporal stores pay off for large results that are not read soon.
        pack_saturates: whether `pack_bytes` clamps to 0 and 255.
        k_blocks_f32: the sizes, in floats of K, of the blocks that the loop over K of an f32 product takes at a time.
            The largest comes first; the last one is 1; the others fill whole registers.
        row_group: how many rows of a tile one moving pointer serves; see `kernel_ir.rows.Rows`.
        multiplies_memory: whether a multiplying instruction takes an operand from memory, so that it needs no register.
    """

    level: str
    os: str
    features: frozenset[str]
    arch: ClassVar[str]
    levels: ClassVar[Levels]
    instructions: ClassVar[Mapping[str, Instruction]]
    dialect: ClassVar[Dialect]
    streams: ClassVar[bool] = False
    pack_saturates: ClassVar[bool] = False
    k_blocks_f32: ClassVar[tuple[int, ...]] = (1,)
    row_group: ClassVar[int] = 3
    multiplies_memory: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """`x86-64+avx2`, or with the os where it is not the host's: `x86-64-windows+avx2`."""
        system = "" if self.os == host.system() else f"-{self.os}"
        return f"{self.arch}{system}+{self.level}"

    @property
    def key(self) -> str:
        """The name and every feature that changes code. Caches of kernels use it as a key."""
        return f"{self.name}({','.join(sorted(self.features))})"

    @property
    def machine(self) -> str:
        """What LLVM generates code for (triple, CPU and features), as part of such keys."""
        return f"{self.triple} {self.cpu} {self.llvm_features}"

    def has(self, feature: str) -> bool:
        """Whether code for this target may use the feature (a level's name, or an extra such as `vbmi`)."""
        return feature in self.features

    def instruction(self, name: str) -> Instruction:
        """The declaration of an instruction; LoweringError with the nearest name if there is none."""
        if name not in self.instructions:
            raise LoweringError(f"{self.arch} has no instruction {name!r}", hint=nearest(name, self.instructions))
        return self.instructions[name]

    # -- the level's row: see `Level` for what each says ----------------------------------------------------------

    @property
    def row(self) -> Level:
        """The level's row in the architecture's table."""
        return self.levels[self.level]

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector register."""
        return self.row.vector_bytes

    @property
    def register_count(self) -> int:
        """How many vector registers there are."""
        return self.row.register_count

    @property
    def f32_lanes(self) -> int:
        """f32 values in one vector register."""
        return self.vector_bytes // 4

    @property
    def i32_lanes(self) -> int:
        """i32 values in one vector register."""
        return self.vector_bytes // 4

    @property
    def gemm_tiles(self) -> Tiles:
        """(mr, nv) register tiles of u8 x i8 products, best first."""
        return self.row.gemm_tiles

    @property
    def gemm_tiles_f32(self) -> Tiles:
        """(mr, nv) register tiles of f32 products, best first."""
        return self.row.gemm_tiles_f32

    @property
    def k_blocks(self) -> tuple[int, ...]:
        """Sizes of the K blocks of u8 x i8 products in bytes, the largest first."""
        return self.row.k_blocks

    @property
    def dot_depth(self) -> int:
        """Bytes of K that lie side by side for each channel of packed weights."""
        return self.row.dot_depth

    @property
    def dot4_offset(self) -> int:
        """What `dot4` subtracts from each activation."""
        return self.row.dot4_offset

    @property
    def has_pairwise_dot(self) -> bool:
        """Whether `dot4_pairwise` is faster than `dot4`."""
        return self.row.has_pairwise_dot

    @property
    def multiplies_words(self) -> bool:
        """Whether products of bytes multiply activations and weights that were widened to i16 (`dot2`)."""
        return self.row.multiplies_words

    # -- code generation: all that the emitter and the JIT need ---------------------------------------------------

    @property
    @abstractmethod
    def triple(self) -> str:
        """LLVM's target triple."""

    @property
    def cpu(self) -> str:
        """LLVM's CPU name: it sets the features that LLVM may use by itself, and the scheduling model."""
        return self.row.cpu

    @property
    @abstractmethod
    def llvm_features(self) -> str:
        """LLVM's feature string (`+avx512vnni,-prefer-256-bit`)."""

    @property
    @abstractmethod
    def function_attributes(self) -> str:
        """Attributes that every emitted function carries, as LLVM text."""

    # -- execution ------------------------------------------------------------------------------------------------

    def is_native(self) -> bool:
        """Whether this process can execute code for the target on its own CPU. QC_ISA hides levels and extras."""
        extras = [extra.llvm for extra in self.levels.extras if self.has(extra.name)]
        return (
            host.arch() == self.arch
            and self.os == host.system()
            and self.levels.is_available(self.level)
            and set(extras) <= self.levels.cpu_features()
        )

    @abstractmethod
    def execution(self) -> Execution:
        """How this process executes code for the target."""

    def loader(self) -> Loader:
        """What loads and runs code for the target in this process."""
        from qcompiler.backends.runtime.native import NativeLoader

        return NativeLoader(self)

    @property
    def emulator(self) -> str:
        """The name of what executes code for the target where `execution` is "emulated"; otherwise empty."""
        return ""

    def can_run(self) -> bool:
        """Whether this process can execute code for the target, natively or emulated."""
        return self.execution() != "none"

    def why_not(self) -> str:
        """What to install where `execution` is "none"; empty if nothing helps."""
        return ""

    # -- primitives: emitted by kernels through `b.target` --------------------------------------------------------

    @abstractmethod
    def masks(self, type: Type) -> bool:
        """Whether masked loads and stores of this vector type are single instructions."""

    @abstractmethod
    def dot4_weights(self, b: KernelBuilder, w: Value, *, pairwise: bool = False) -> tuple[Value, ...]:
        """Prepare a register of weights for `dot4` (pairwise: for `dot4_pairwise`). Do this once for each register
        that is loaded, outside the loop over rows."""

    @abstractmethod
    def dot4_activations(self, b: KernelBuilder, x: Value, *, pairwise: bool = False) -> tuple[Value, ...]:
        """Prepare a register of activations for `dot4` (pairwise: for `dot4_pairwise`). Do this once for each row."""

    @abstractmethod
    def dot4(self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]) -> Value:
        """acc[i] + sum of (x[4i + j] - dot4_offset) * w[4i + j] for j < 4, exact in i32 (wraps).

        acc is one register <n x i32>, n being `i32_lanes`; x (u8) and w (i8) are <4n x i8>, or what
        `dot4_activations` and `dot4_weights` made of them.
        """

    def mmla(self, b: KernelBuilder, acc: Value, x: Value, w: Value) -> Value:
        """acc[2i + j] + sum of x[8i + k] * w[8j + k] for k < 8, two rows i of x (u8) and two channels j of w (i8).
        Only where `dot_depth` is 8."""
        raise LoweringError(f"{self.key} has no instruction that multiplies two rows at once", hint="dot4")

    @abstractmethod
    def sum4(self, b: KernelBuilder, acc: Value, x: Value) -> Value:
        """acc[i] + x[4i] + ... + x[4i + 3] for unsigned bytes x."""

    @abstractmethod
    def pairwise_dot_is_exact(self, weights: np.ndarray, highest: int = 255) -> bool:
        """Whether `dot4_pairwise` is exact for these i8 weights and any activations from 0 to `highest`.

        weights: of any shape; along the last axis lie the groups of four that `dot4` takes.
        """

    @abstractmethod
    def dot4_pairwise(
        self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]
    ) -> Value:
        """Like `dot4`, but adds two products in i16 first: exact only where `pairwise_dot_is_exact(weights)`."""

    @abstractmethod
    def round_to_i32(self, b: KernelBuilder, x: Value) -> Value:
        """<n x f32> to <n x i32>, ties to even. The values must fit: clamp them before."""

    @abstractmethod
    def narrow(self, b: KernelBuilder, parts: Sequence[Value], storage: Storage) -> Value:
        """1, 2 or 4 vectors <n x i32> to one vector of bytes, in order, saturated to u8 or i8."""

    @abstractmethod
    def pack_words(self, b: KernelBuilder, x: Value, y: Value) -> Value:
        """Two registers of i32 to one of i16, saturated. Each 128-bit block of the result holds four lanes of x, then
        four of y. So if x and y hold channels in `pair_order`, the result holds them in order."""

    @abstractmethod
    def dot2(self, b: KernelBuilder, acc: Value, x: Value, y: Value) -> Value:
        """acc[i] + x[2i] * y[2i] + x[2i + 1] * y[2i + 1]: acc is a register of i32, x and y are registers of i16 whose
        values have at most 15 bits; then the result is exact."""

    @abstractmethod
    def pack_bytes(self, b: KernelBuilder, x: Value, y: Value) -> Value:
        """Two registers of i16 to one of bytes. Each 128-bit block of the result holds eight lanes of x, then eight of
        y. The values are 0 to 255, or any where `pack_saturates`."""

    @abstractmethod
    def load_table(self, b: KernelBuilder, pointer: Value, offset: Operand = 0) -> list[Value]:
        """Load a table of 256 bytes for `lookup`. Do this once, outside the loop."""

    @abstractmethod
    def make_table(self, b: KernelBuilder, entries: Sequence[Value]) -> list[Value]:
        """Make a table for `lookup` of 256 bytes that are in registers already."""

    @property
    def fast_lookup(self) -> bool:
        """Whether `lookup` takes only a few instructions."""
        return False

    @abstractmethod
    def lookup(self, b: KernelBuilder, table: Sequence[Value], codes: Value) -> Value:
        """table[code] for each (unsigned) byte of one register: <vector_bytes x i8>."""

    def broadcast4(self, b: KernelBuilder, pointer: Value, offset: Operand = 0, *, disp: int = 0) -> Value:
        """Load four bytes and repeat them in every i32 lane of a register: one row's activations for `dot4`."""
        four = b.load(I32, pointer, offset, disp=disp)
        return b.bitcast(b.splat(four, self.i32_lanes), vector(I8, self.vector_bytes))

    def pair_order(self) -> list[int]:
        """The order in which two registers of n lanes must hold 2n channels for `pack_words` to give them in order:
        the channel of each lane."""
        blocks = self.i32_lanes // 4
        return [8 * block + 4 * half + lane for half in range(2) for block in range(blocks) for lane in range(4)]

    @property
    def dot4_registers(self) -> tuple[int, ...]:
        """Bytes of the registers that `dot4`, `pack_words` and `pack_bytes` take, the largest first."""
        return (self.vector_bytes,)

    def quad_order(self, channels: int) -> list[int]:
        """The order in which four registers of sums hold the channels of a register of bytes whose quads are made by
        `interleaved`: the channel of each lane. channels: bytes of that register."""
        blocks = channels // 16
        return [16 * block + 4 * i + lane for i in range(4) for block in range(blocks) for lane in range(4)]

    def interleaved(self, b: KernelBuilder, x: Value, y: Value) -> tuple[Value, Value]:
        """x and y interleaved lane by lane within each 128-bit block: a register with the low halves of all blocks,
        and one with the high halves. Interleaved words give pairs in `pair_order`."""
        lanes, per_block = x.type.lanes, 128 // x.type.element.bits
        halves = []
        for half in range(2):
            first = [
                per_block * block + per_block // 2 * half + lane
                for block in range(lanes // per_block)
                for lane in range(per_block // 2)
            ]
            halves.append(b.shuffle(x, y, [lane + side * lanes for lane in first for side in range(2)]))
        return halves[0], halves[1]

    def words_above_2_23(self, b: KernelBuilder, words: Value) -> tuple[Value, Value]:
        """2^23 + word in f32 (exact) for a register of unsigned i16, as two registers in `pair_order`. Each word
        becomes the low half of a float whose exponent is 23."""
        floats = vector(F32, words.type.lanes // 2)
        low, high = self.interleaved(b, words, b.const(words.type, 0x4B00))
        return b.bitcast(low, floats), b.bitcast(high, floats)

    def f32_vector(self) -> Type:
        """The type of one register of f32."""
        return vector(F32, self.f32_lanes)

    def mask(self, lanes: int) -> Type:
        """The type of a mask with this many lanes."""
        return vector(I1, lanes)


def llvm_triple(llvm_arch: str, system: str) -> str:
    """LLVM's triple for `x86_64` and `linux`."""
    return f"{llvm_arch}-{_SYSTEMS[system]}"


def target_class(arch: str) -> type[Target]:
    """The class of an architecture's targets. Its module loads when it is first needed."""
    module, name = _ARCHITECTURES[arch]
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise LoweringError(f"the {arch} backend is not installed", got=str(error)) from None
    assert issubclass(found, Target)
    return found


def _installed() -> list[str]:
    folders = {arch: module.rpartition(".")[0] for arch, (module, _) in _ARCHITECTURES.items()}
    return [arch for arch, folder in folders.items() if importlib.util.find_spec(folder)]


def known_targets() -> list[str]:
    """Every target name without an os, by architecture, the lowest level first."""
    return [f"{arch}+{level}" for arch in _installed() for level in target_class(arch).levels]


def host_level(arch: str | None = None) -> str:
    """The highest level that this process can run, or the one that QC_ISA names."""
    return target_class(arch or host.arch()).levels.host_level()


def native_target() -> Target:
    """The host's architecture at its highest level, or at the one that QC_ISA names."""
    return _make(host.arch(), host_level(), host.system(), native=True)


_SYNONYMS = {
    **dict.fromkeys(("cpu", "host", "auto", "default", "x86", "amd64", "x86_64"), "native"),
    **dict.fromkeys(("arm", "arm64", "armv8", "neon"), "aarch64+neon"),
    **{level: f"x86-64+{level}" for level in ("avx2", "avxvnni", "avx512", "avx512vnni")},
    **dict.fromkeys(("interpreter", "python", "numpy"), "reference"),
}
"""What else a target is called."""


def parse_target(text: str, *, exact: bool = False) -> Target:
    """The target of a name: `native`, or `arch[-os][+level]`; LoweringError with the nearest name if there is none.

    os defaults to the host's. level defaults to the lowest, or to the host's own if arch and os are the host's.
    exact: leave out the extras that the host has, so that the code runs wherever the level does.
    """
    if text == "native":
        return native_target()
    known = ["native", *known_targets()]
    match = re.fullmatch(r"(?P<arch>.+?)(?:-(?P<os>linux|macos|windows))?(?:\+(?P<level>[\w.]+))?", text)
    arch = match["arch"] if match else ""
    if match is None or arch not in _installed():
        raise LoweringError(f"unknown target {text!r}", hint=nearest(text, known, _SYNONYMS))
    levels, system = target_class(arch).levels, match["os"] or host.system()
    is_host = system == host.system() and host.is_arch(arch)
    level = match["level"] or (levels.host_level() if is_host else levels.lowest)
    if level not in levels:
        raise LoweringError(f"unknown level {level!r} of {arch}", got=text, hint=nearest(f"{arch}+{level}", known))
    return _make(arch, level, system, native=is_host and not exact)


def _make(arch: str, level: str, system: str, *, native: bool) -> Target:
    target = target_class(arch)
    return target(level, system, target.levels.features(level, native=native))
