"""A door is a way by which input from strangers comes in, together with the inputs that fuzzing tries on it."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from qcompiler.errors import QCompilerError

HOMES = {
    "onnx-structure": "onnx_door:OnnxStructure",
    "onnx-bytes": "onnx_door:OnnxBytes",
    "text": "text_door:Text",
    "artifact": "file_doors:Artifact",
    "calibration": "file_doors:CalibrationFile",
    "data": "file_doors:DataFile",
    "ops-onnx": "answer_doors:OnnxOps",
    "ops-numpy": "answer_doors:NumpyOps",
    "ops-torch": "answer_doors:TorchOps",
    "qdq": "answer_doors:QdqGraphs",
    "networks": "answer_doors:Networks",
}
"""Door -> its module and class. A module is imported when its door is opened: torch takes seconds."""


class Door(Protocol):
    """One door.

    suffix: the ending of the names of files that hold its inputs.
    """

    suffix: str

    def draw(self, seed: int) -> bytes:
        """Draw the input of a seed."""
        ...

    def run(self, data: bytes) -> str:
        """Give an input to the code under test. Gives one word for how it ended.

        Raises:
            QCompilerError: the input is refused.
            Exception: a finding. A wrong answer is an AssertionError.
        """
        ...

    def is_clear(self, error: QCompilerError) -> bool:
        """Whether an error is of a class that the door's entry documents."""
        ...

    def smaller(self, data: bytes) -> Iterator[bytes]:
        """Inputs that are simpler than `data`, the simplest first."""
        ...


def open_door(name: str) -> Door:
    """The door with this name."""
    module, _, cls = HOMES[name].partition(":")
    door: Door = getattr(importlib.import_module(f"tests.fuzz.{module}"), cls)()
    return door


def generator(door: str, seed: int) -> np.random.Generator:
    """The random numbers of a seed, which differ between doors."""
    return np.random.default_rng([seed, zlib.crc32(door.encode())])
