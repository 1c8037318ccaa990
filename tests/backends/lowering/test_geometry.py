"""Geometry against numpy's views of the same shape and strides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.backends.lowering.geometry import Geometry, slice_bounds
from qcompiler.backends.lowering.views import row_major_strides
from qcompiler.errors import ShapeError

BOUND = st.one_of(st.none(), st.integers(-9, 9))
STEP = st.one_of(st.none(), st.integers(-4, 4).filter(bool))


def geometry(array: np.ndarray, whole: np.ndarray) -> Geometry:
    offset = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return Geometry(array.shape, array.strides, offset if array.size else 0)


def check(found: Geometry, array: np.ndarray, whole: np.ndarray) -> None:
    """Strides along axes of one element, and of arrays without elements, do not matter."""
    expected = geometry(array, whole)
    assert found.shape == expected.shape and found.is_empty == (array.size == 0) and found.elements == array.size
    assert found.offset == expected.offset
    if array.size:
        assert [s for n, s in zip(found.shape, found.strides) if n > 1] == [
            s for n, s in zip(array.shape, array.strides) if n > 1
        ]


def made(*shape: int) -> tuple[np.ndarray, Geometry]:
    array = np.zeros(shape, np.float32)
    return array, Geometry(shape, row_major_strides(shape, 4))


@given(st.integers(0, 7), BOUND, BOUND, STEP)
def test_slices_are_those_of_python(size: int, start: int | None, stop: int | None, step: int | None) -> None:
    part = slice(start, stop, step)
    first, count, by = slice_bounds(part, size)
    expected = list(range(size))[part]
    assert count == len(expected) and [first + by * i for i in range(count)] == expected
    array, whole = made(size, 3)
    check(whole.sliced([part]), array[part], array)
    check(whole.sliced([part, slice(1, None)]), array[part, 1:], array)


def test_axes() -> None:
    array, whole = made(2, 6, 4)
    check(whole.transposed((2, 0, 1)), array.transpose(2, 0, 1), array)
    check(whole.swapped(1, 2), array.swapaxes(1, 2), array)
    check(whole.flipped((0, 2)), np.flip(array, (0, 2)), array)
    check(whole.expanded(1), np.expand_dims(array, 1), array)
    check(whole.split(1, 3, 2), array.reshape(2, 3, 2, 4), array)
    check(whole.sliced([slice(1, 2)]).broadcast((5, 6, 4)), np.broadcast_to(array[1:2], (5, 6, 4)), array)
    check(whole.broadcast((3, 2, 6, 4)), np.broadcast_to(array, (3, 2, 6, 4)), array)


@pytest.mark.parametrize("shape", [(3, 6, 4), (6, 4), (2, 6, 1)])
def test_shapes_that_do_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="broadcast"):
        made(2, 6, 4)[1].broadcast(shape)
