"""Base classes that several ops share. Passes and lowering rules recognise what an op offers by them.

`Weighted.of(node)` is the view of any op with a weight, or None. The fields are declared by each op, at the position
that its signature gives them.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from qcompiler.dims import DimLike
from qcompiler.ir import Value
from qcompiler.opdef import AttrSpec, Op, OperandSpec, Trait
from qcompiler.opfields import ACTIVATION_BOUNDS


class TakesActivation(Op):
    """A following relu or relu6 may become part of the op."""

    activation: AttrSpec[str]

    @property
    def bounds(self) -> tuple[float, float]:
        """What the fused activation clamps the result to."""
        return ACTIVATION_BOUNDS[self.activation]


class Weighted(TakesActivation):
    """Dot products of x with a weight, plus a bias with one number per output channel."""

    x: OperandSpec[Value]
    weight: OperandSpec[Value]
    bias: OperandSpec[Value | None]
    chooses_params = True
    gives_real = True

    @property
    def channel_axis(self) -> int:
        """The axis of the result along which its channels lie."""
        return 1

    @property
    def weight_groups(self) -> int:
        """How many independent groups the channels form."""
        return 1

    @property
    def added(self) -> Value | None:
        """What is added to the dot products besides the bias: the residual, if there is one."""
        return None

    def grouped(self, weight: np.ndarray) -> np.ndarray:
        """A weight as [groups, outputs of a group, inputs of a group, taps]; `ungrouped` turns it back."""
        groups = self.weight_groups
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)

    def ungrouped(self, grouped: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The weight, of this shape, that `grouped` was made from."""
        return grouped.reshape(shape)

    @property
    def input_axis(self) -> int:
        """The axis of x along which its channels lie."""
        return 1

    @property
    def has_border(self) -> bool:
        """Whether some results sum zeros from outside of x, or fewer elements than others."""
        return True

    @property
    def row_form(self) -> str:
        """How `rows` reads x. Two products of one form have the same rows of the same x."""
        raise NotImplementedError

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(groups, inputs of a group, taps) of a row; the sizes of a constant weight."""
        shape = tuple(size for size in self.weight.type.shape if isinstance(size, int))
        groups, _, inputs, taps = self.row_weight(np.broadcast_to(np.int8(0), shape)).shape
        return groups, inputs, taps

    def row_counts(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many samples x has, and at how many positions along each axis a sample has a row."""
        raise NotImplementedError

    def rows(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The rows of x at flat indices into `row_counts`, as [positions, groups, inputs of a group, taps].

        With W = `row_weight(weight)`, sum W[g, o, i, t] * row[g, i, t] over i and t is what the product computes of a
        row, without its bias.
        """
        raise NotImplementedError

    def row_weight(self, weight: np.ndarray) -> np.ndarray:
        """A weight as [groups, outputs of a row, inputs of a group, taps]."""
        return self.grouped(weight)

    def products(self) -> tuple[DimLike, ...] | None:
        return (*self.node.result.type.shape, *self.weight.type.shape[1:])

    def terms(self) -> tuple[DimLike, ...] | None:
        return self.weight.type.shape[1:]


class TakesResidual(Weighted):
    """Another activation may be added to the dot products, before the fused activation."""

    residual: OperandSpec[Value | None]

    @property
    def added(self) -> Value | None:
        return self.residual


class AffineNorm(Op):
    """A norm, then * weight + bias. Either may be absent."""

    weight: OperandSpec[Value | None]
    bias: OperandSpec[Value | None]

    @property
    def affine_axis(self) -> int | None:
        """The axis of the result along which weight and bias lie; None if along several."""
        return 1


class Arithmetic(Op):
    """Elementwise arithmetic on two operands. Where one is a scalar constant, it is a function of the other alone."""

    x: OperandSpec[Value]
    y: OperandSpec[Value]


class Mover(Op):
    """Moves elements without computing. On quantized operands the codes move, and the parameters stay the same."""

    traits = frozenset({Trait.MOVES_DATA})
    carries_masks = True
    element_cost = (0.017, 0.071)

    @property
    def border(self) -> float | None:
        """The number that the op puts around the elements it moves, if any."""
        return None


class Conversion(Op):
    """Between real and quantized, or between two quantizations: not a computation of the model."""

    reads_codes: ClassVar[bool] = True
    gives_codes: ClassVar[bool] = True
    x: OperandSpec[Value]


class RangeConversion(Op):
    """From real numbers to codes whose parameters are known at run time only, plain numbers: not a computation of the
    model either, and no `Conversion`, whose parameters are those of a type."""
