"""Calibration items: the inputs of one call each, checked one by one while the data streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.arguments import described, plain_array
from qcompiler.dims import Dim
from qcompiler.errors import QuantizationError
from qcompiler.ir import Value
from qcompiler.signature import flat_inputs


def iterate_items(
    data: Iterable[object],
    inputs: Sequence[Value],
    left_out: Counter[str],
    transform: Callable[[Any], object] | None = None,
) -> Iterator[list[np.ndarray]]:
    """The inputs of one call after another. An item is an array, a tuple by position, or a dict by name.

    Items that hold NaN or Inf are left out, and counted by the name of the input. left_out: where they are counted.

    Raises:
        QuantizationError: no items, or only such; a shape or dtype that does not fit, an (input, label) pair; it names
            the item and the input.
    """
    index, good = -1, 0
    for index, item in enumerate(data):
        arrays = _item(item if transform is None else _transformed(transform, item, index), inputs, index)
        bad = [value.name for value, x in zip(inputs, arrays) if x.dtype.kind == "f" and not np.isfinite(x).all()]
        left_out.update(bad)
        if not bad:
            good += 1
            yield arrays
    if index >= 0 and not good:
        raise QuantizationError(
            "calibration data is not finite", where=f"input {next(iter(left_out))!r}", got="NaN or Inf in all items"
        )
    if index < 0:
        raise QuantizationError(
            "the calibration data is empty",
            expected="at least one item: the inputs of one call",
            hint="a generator is consumed by its first use",
        )


def _transformed(transform: Callable[[Any], object], item: object, index: int) -> object:
    """What the user's function makes of an item. Its own exceptions pass, with a note of the item."""
    try:
        return transform(item)
    except Exception as error:
        error.add_note(f"in transform= of calibration item {index}, a {described(item)}")
        raise


def _item(item: object, inputs: Sequence[Value], index: int) -> list[np.ndarray]:
    names = [value.name for value in inputs]
    where = f"calibration item {index}"
    parts: list[object]
    if isinstance(item, (Mapping, tuple, list)):
        item = flat_inputs(names, item)
    if isinstance(item, Mapping):
        missing = [name for name in names if name not in item]
        if missing or len(item) != len(names):
            raise QuantizationError(
                "a calibration item has other names",
                where=where,
                expected=", ".join(names),
                got=", ".join(map(str, item)),
            )
        parts = [item[name] for name in names]
    elif isinstance(item, (tuple, list)):
        parts = list(item)
    else:
        parts = [item]
    if len(parts) != len(names):
        pair = " It looks like an (input, label) pair." if len(parts) == len(names) + 1 else ""
        raise QuantizationError(
            f"a calibration item is the inputs of one call.{pair}",
            where=where,
            expected=f"{len(names)} ({', '.join(names)})",
            got=len(parts),
            hint="transform=lambda item: item[0] takes the input out of a pair",
        )
    return [_array(part, value, where) for part, value in zip(parts, inputs)]


def _fitting(array: np.ndarray, value: Value, fits: bool) -> str:
    """How to make an item that fits."""
    dtype = value.type.dtype.numpy
    if fits:
        return f"convert the data to {dtype}: array.astype(np.{dtype})"
    if array.ndim + 1 == value.type.rank:
        return "an array as data is taken row by row: put it into a list if it is the input of one call"
    return "convert the items with transform="


def _array(part: object, value: Value, where: str) -> np.ndarray:
    try:
        array = np.asarray(plain_array(part))
    except (TypeError, ValueError, RuntimeError) as error:
        raise QuantizationError(
            "a calibration item is no array", where=f"{where}, input {value.name!r}", got=f"{described(part)}: {error}"
        ) from None
    place = f"{where}, input {value.name!r}"
    fits = array.ndim == value.type.rank and all(
        isinstance(e, Dim) or e == g for e, g in zip(value.type.shape, array.shape)
    )
    if array.dtype != value.type.dtype.numpy or not fits:
        raise QuantizationError(
            "a calibration item does not fit the input",
            where=place,
            expected=str(value.type),
            got=f"{array.dtype}{list(array.shape)}",
            hint=_fitting(array, value, fits),
        )
    return array
