"""How a graph is called: its inputs, the guards on its symbolic sizes, and the structure of its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler.arguments import described, plain_array
from qcompiler.dims import Dim
from qcompiler.errors import InputError
from qcompiler.ir import Graph, Value
from qcompiler.notes import Guard, OutputStructure
from qcompiler.structure import Structure, check_structure, default_structure
from qcompiler.types import TensorType, type_of


@dataclass(frozen=True)
class Input:
    """An input's name and type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Signature:
    """What a caller needs to know of a graph, so that its program can be called without it.

    Attributes:
        name: the graph's name.
        inputs: the inputs, in order.
        structure: how the outputs nest (structure.py).
        guards: the relations that the sizes must obey.
    """

    name: str
    inputs: tuple[Input, ...]
    structure: Structure
    guards: tuple[Guard, ...]

    @staticmethod
    def of(graph: Graph) -> Signature:
        """The signature of a graph. ParseError if its structure names outputs that it does not have."""
        return Signature(
            graph.name,
            tuple(Input(value.name, value.type) for value in graph.inputs),
            structure_of(graph),
            guards(graph),
        )


def guards(graph: Graph) -> tuple[Guard, ...]:
    """The guards among a graph's notes, in order."""
    return tuple(note for note in graph.notes if isinstance(note, Guard))


def structure_of(graph: Graph) -> Structure:
    """The recorded structure of the outputs, or the default one.

    Raises:
        ParseError: the structure names an output that the graph does not have.
    """
    for note in graph.notes:
        if isinstance(note, OutputStructure):
            check_structure(note.structure, len(graph.outputs))
            return note.structure
    return default_structure(len(graph.outputs))


def record_structure(graph: Graph, structure: Structure) -> None:
    """Note how the outputs nest; a single plain output needs no note."""
    if structure != 0:
        graph.notes.append(OutputStructure(structure))


def check_guards(called: Graph | Signature, sizes: Mapping[str, int]) -> None:
    """Raise InputError for the first guard that `sizes` break."""
    for guard in called.guards if isinstance(called, Signature) else guards(called):
        if not guard.holds(sizes):
            raise InputError(
                f"these input sizes take another path through the model than the traced one ({called.name})",
                expected=str(guard),
                got=", ".join(f"{name}={size}" for name, size in sorted(sizes.items())),
                hint="trace again with example inputs of such sizes",
            )


def bind_inputs(
    called: Graph | Signature, inputs: Sequence[np.ndarray] | Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], dict[str, int]]:
    """The inputs in signature order, and the symbolic sizes that they bind.

    Raises:
        InputError: wrong count, name, dtype or shape; a size that is not what `dynamic=` declared, or that breaks a
            guard of the trace.
    """
    arrays = _by_position(called, inputs)
    wanted: Sequence[Value | Input] = called.inputs
    sizes: dict[str, int] = {}
    for value, array in zip(wanted, arrays):
        _bind_one(value, array, sizes)
    for value, array in zip(wanted, arrays):
        expected = value.type.bind(sizes)
        if array.shape != expected.shape:
            raise InputError(
                f"input {value.name!r} has another shape",
                expected=str(value.type),
                got=str(type_of(array)),
                hint=f"sizes bound by the inputs: {sizes}",
            )
    check_guards(called, sizes)
    return arrays, sizes


def flat_inputs(names: Sequence[str], inputs: Sequence[Any] | Mapping[str, Any]) -> Sequence[Any] | Mapping[str, Any]:
    """The inputs of a call with the parts of dicts, lists and tuples in their place, where a model has inputs of these
    names: `{"x": [a, b]}` is `{"x_0": a, "x_1": b}`. By position the parts follow each other."""
    if isinstance(inputs, Mapping):
        found: dict[str, Any] = {}
        for name, item in inputs.items():
            parts = _parts(item) if name not in names else None
            below = {f"{name}_{key}": part for key, part in parts.items()} if parts else {name: item}
            found.update(flat_inputs(names, below) if parts else below)
        return found
    if len(inputs) >= len(names):
        return inputs
    return [leaf for item in inputs for leaf in _leaves(item)]


def _parts(item: Any) -> dict[Any, Any] | None:
    """The parts of a container; None for an array, or a list of numbers, which is one."""
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, (list, tuple)) and not all(isinstance(part, (bool, int, float)) for part in item):
        return dict(enumerate(item))
    return None


def _leaves(item: Any) -> list[Any]:
    parts = _parts(item)
    return [item] if parts is None else [leaf for part in parts.values() for leaf in _leaves(part)]


def _by_position(
    called: Graph | Signature, inputs: Sequence[np.ndarray] | Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    names = [value.name for value in called.inputs]
    inputs = flat_inputs(names, inputs)
    if isinstance(inputs, Mapping):
        missing = [name for name in names if name not in inputs]
        unknown = [name for name in inputs if name not in names]
        if missing or unknown:
            raise InputError("input names do not fit the model", expected=", ".join(names), got=", ".join(inputs))
        inputs = [inputs[name] for name in names]
    if len(inputs) != len(names):
        raise InputError("wrong number of inputs", expected=f"{len(names)} ({', '.join(names)})", got=len(inputs))
    try:
        return [np.asarray(array) for array in inputs]
    except (TypeError, ValueError, RuntimeError):
        return [_converted(name, array) for name, array in zip(names, inputs)]


def _converted(name: str, given: object) -> np.ndarray:
    """An input that numpy does not take as it is: a tensor with a gradient, of bfloat16, or on another device."""
    try:
        return np.asarray(plain_array(given))
    except (TypeError, ValueError, RuntimeError) as error:
        problem = f"{described(given)}: {error}"
    raise InputError(f"input {name!r} is no array", expected="an array", got=problem)


def _bind_one(value: Value | Input, array: np.ndarray, sizes: dict[str, int]) -> None:
    type = value.type
    if array.dtype != type.dtype.numpy:
        raise InputError(
            f"input {value.name!r} has another dtype",
            expected=str(type),
            got=f"{array.dtype}{list(array.shape)}",
            hint=f"pass {value.name}.astype(np.{type.dtype.numpy})",
        )
    if array.ndim != type.rank:
        hint = None
        if array.ndim == type.rank + 1 and array.shape[0] == 1:
            hint = "pass the array itself, not a list that holds it"
        elif array.ndim == type.rank - 1:
            hint = "one sample is a batch too: array[None]"
        raise InputError(
            f"input {value.name!r} has another rank", expected=str(type), got=str(type_of(array)), hint=hint
        )
    for axis, size in enumerate(type.shape):
        got = array.shape[axis]
        if isinstance(size, Dim):
            name = str(size)
            if name in size.names() and sizes.setdefault(name, got) != got:
                raise InputError(
                    f"the size {name} is given twice",
                    where=f"input {value.name!r}, axis {axis}",
                    expected=f"{name} = {sizes[name]}",
                    got=got,
                )
        elif size != got:
            raise InputError(
                f"input {value.name!r} has another shape",
                expected=str(type),
                got=str(type_of(array)),
                hint=f'compile with dynamic={{"{value.name}": {{{axis}: "B"}}}} to let axis {axis} vary',
            )
