"""How a graph is called: its inputs, the guards on its symbolic sizes, and the structure of its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcompiler.errors import InputError
from qcompiler.ir import Graph
from qcompiler.notes import Guard, OutputStructure
from qcompiler.structure import Structure, check_structure, default_structure
from qcompiler.types import TensorType


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
