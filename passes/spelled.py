"""What the recognition of norms and softmaxes shares: a region as a function, its rows, and what was found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from qcompiler.fork_safety import cached_property
from qcompiler.ir import AttrValue, Const
from qcompiler.opdef import Op
from qcompiler.ops.norm import Normalised
from qcompiler.passes.regions import Region

SAME = 2.0**-18
"""Parameters that are this close (relative) are the same but for roundings: see `spelled_norms.TOLERANCE`."""


@dataclass(frozen=True)
class Spelled:
    """An op with constant parameters that a region spells out."""

    op: type[Op]
    attrs: Mapping[str, AttrValue] = field(default_factory=dict)
    constants: Sequence[np.ndarray | None] = ()
    """f32, the operands after the first"""
    axis: int | None = None
    """The axis that the op needs as its last one; None if the operand lies as the op reads it"""


class Miss(NamedTuple):
    """Why a region is not an op. depth: how many comparisons it passed before."""

    depth: int
    reason: str


def is_near(data: np.ndarray | float, values: np.ndarray) -> bool:
    """Whether parameters are the same but for roundings."""
    return bool(np.allclose(values, data, rtol=SAME, atol=SAME * 2.0**-10 * np.abs(values).max(initial=0)))


@dataclass(frozen=True)
class Function:
    """A region as a function of float64 arrays of one shape. sizes: of symbolic dimensions."""

    region: Region
    sizes: Mapping[str, int]
    shape: tuple[int, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.region(x, self.sizes)

    @cached_property
    def at_zero(self) -> np.ndarray:
        """What it gives for zeros."""
        return self(np.zeros(self.shape))

    @cached_property
    def constants(self) -> list[np.ndarray]:
        """The float constants that the region reads."""
        operands = (value for node in self.region.nodes for value in node.operands)
        return [value.data for value in operands if isinstance(value, Const) and value.type.dtype.is_float]

    @cached_property
    def scalars(self) -> list[float]:
        """The constants of one element, and the eps of norms inside."""
        norms = (Normalised.of(node) for node in self.region.nodes)
        return [
            *(float(data.reshape(-1)[0]) for data in self.constants if data.size == 1),
            *(norm.eps for norm in norms if norm is not None),
        ]

    def constant_near(self, values: np.ndarray) -> np.ndarray | None:
        """A constant of the region with the same elements but for roundings, in the shape of `values`."""
        same_size = (data.reshape(values.shape) for data in self.constants if data.size == values.size)
        return next((data for data in same_size if is_near(data, values)), None)


@dataclass(frozen=True)
class Rows:
    """The elements of an array as rows, each of which a function works on alone.

    Attributes:
        shape: of the array.
        seen: a shape with the same elements in the same order, some axes of which make up a row.
        axes: these axes of `seen`.
    """

    shape: tuple[int, ...]
    seen: tuple[int, ...]
    axes: tuple[int, ...]

    @cached_property
    def order(self) -> tuple[int, ...]:
        return (*(axis for axis in range(len(self.seen)) if axis not in self.axes), *self.axes)

    @cached_property
    def length(self) -> int:
        """The elements of a row."""
        return math.prod(self.seen[axis] for axis in self.axes)

    @cached_property
    def count(self) -> int:
        return math.prod(self.shape) // self.length

    def split(self, x: np.ndarray) -> np.ndarray:
        """An array of `shape` as [count, length]."""
        return x.reshape(self.seen).transpose(self.order).reshape(self.count, self.length)

    def joined(self, rows: np.ndarray) -> np.ndarray:
        """The array of `shape` that these rows make up."""
        ordered = rows.reshape([self.seen[axis] for axis in self.order])
        return ordered.transpose(np.argsort(self.order)).reshape(self.shape)

    def shared(self, kinds: Sequence[Sequence[float]]) -> Iterator[np.ndarray]:
        """Arrays [count, fields] that give each row a kind, as many as it takes for each kind to have a row."""
        for start in range(0, len(kinds), self.count):
            yield np.array([kinds[(start + row) % len(kinds)] for row in range(self.count)])
