"""ISA levels: what a row of an architecture's table says, and which of its levels this process can run.

Each architecture has one table, `LEVELS` in backends/<arch>/target.py. This module owns what they share: the columns,
QC_ISA, and the choice of the host's level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from qcompiler.backends import host
from qcompiler.errors import LoweringError, nearest

Tiles = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Level:
    """One ISA level: which features its code may use, and how kernels should use its hardware.

    Attributes:
        name: the level's part of a target name.
        features: the names that `Target.has` answers for: the level itself, the levels that it includes, and names
            for instructions that levels share without one including the other.
        cpu: LLVM's CPU name. It sets the features that LLVM may use by itself, and the scheduling model.
        needs: the features that a CPU must report to run the level, in LLVM's names.
        vector_bytes, register_count: the size of a vector register, and how many there are.
        gemm_tiles: (mr, nv) register tiles of u8 x i8 products, mr rows by nv vectors of channels, best first.
        gemm_tiles_f32: the same for f32 products.
        k_blocks: the sizes, in bytes of K, of the blocks that the loop over K of a u8 x i8 product takes at a time.
            The largest comes first; the last one is `dot4`'s 4; the others fill whole registers.
        dot_depth: how many bytes of K lie side by side for each channel of packed weights: 4, or 8 where one
            instruction multiplies two rows at once (`Target.mmla`).
        dot4_offset: what `dot4` subtracts from each activation: 0, or 128 where the machine multiplies signed bytes
            only.
        has_pairwise_dot: whether `dot4_pairwise` is faster than `dot4`.
        multiplies_words: whether products of bytes that are not added in pairs of i16 are products of i16 (`dot2`):
            activations and weights are widened before, so that no tile has to widen them again.
    """

    name: str
    features: tuple[str, ...]
    cpu: str
    needs: tuple[str, ...]
    vector_bytes: int
    register_count: int
    gemm_tiles: Tiles
    gemm_tiles_f32: Tiles
    k_blocks: tuple[int, ...] = (4,)
    dot_depth: int = 4
    dot4_offset: int = 0
    has_pairwise_dot: bool = False
    multiplies_words: bool = False


@dataclass(frozen=True)
class Extra:
    """A feature that a level's code uses only where the host has it; results are the same with and without it.

    level: the level that may have it; llvm: LLVM's name for it.
    """

    name: str
    level: str
    llvm: str


class Levels(Mapping[str, Level]):
    """The levels of one architecture by name, the lowest first."""

    def __init__(
        self,
        arch: str,
        rows: Iterable[Level],
        cpu_features: Callable[[], frozenset[str]],
        extras: Iterable[Extra] = (),
    ) -> None:
        """cpu_features: gives LLVM's names of what the host's CPU has; empty on another architecture."""
        self.arch = arch
        self.cpu_features = cpu_features
        self.extras = tuple(extras)
        self._rows = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> Level:
        if name not in self._rows:
            raise LoweringError(f"unknown level {name!r} of {self.arch}", hint=nearest(name, self._rows))
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    @property
    def lowest(self) -> str:
        """The level that every supported CPU of the architecture has."""
        return next(iter(self._rows))

    def is_on_cpu(self, name: str) -> bool:
        """Whether the host's CPU has the level, whatever QC_ISA says."""
        return set(self[name].needs) <= self.cpu_features()

    def is_available(self, name: str) -> bool:
        """Whether this process may run the level: the CPU has it, and the level that QC_ISA names includes it."""
        level, pretended = self[name], host.pretended_level()
        if pretended is not None and pretended in self and level.name not in self[pretended].features:
            return False
        return self.is_on_cpu(name)

    def host_level(self) -> str:
        """The level that QC_ISA names, or the highest that the CPU has; LoweringError if the CPU lacks it."""
        pretended = host.pretended_level()
        if pretended is None:
            return self._highest_on_cpu()
        if pretended not in self:
            raise LoweringError(f"QC_ISA names an unknown level {pretended!r}", hint=nearest(pretended, self))
        if not self.is_on_cpu(pretended):
            raise LoweringError(
                f"QC_ISA={pretended} is more than this CPU has", hint="unset QC_ISA, or name a lower level"
            )
        return pretended

    def _highest_on_cpu(self) -> str:
        for name in reversed(self._rows):
            if self.is_on_cpu(name):
                return name
        raise LoweringError(
            f"this CPU lacks {self.lowest}, the lowest level of {self.arch}",
            hint='target="reference" runs the interpreter',
        )

    def features(self, name: str, *, native: bool = False) -> frozenset[str]:
        """What a target of the level has. native: with the extras that the host has, which QC_ISA hides."""
        level, extras = self[name], []
        if native and host.pretended_level() is None:
            extras = [e.name for e in self.extras if e.level == name and e.llvm in self.cpu_features()]
        return frozenset({*level.features, *extras})
