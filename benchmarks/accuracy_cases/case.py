"""A case: an ONNX file, arrays to calibrate with, other arrays to test with, and a metric."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Item = Mapping[str, np.ndarray]
"""The inputs of one call, by name."""
Outputs = Sequence[Sequence[np.ndarray]]
"""The outputs of each test item."""
Judge = Callable[[Outputs, Outputs], dict[str, float]]
"""(the float model's outputs, a system's outputs) -> figures by name."""


class MissingPackage(Exception):
    """A package that a case needs is not installed. The text is the command that installs it."""


@dataclass(frozen=True)
class OpenModel:
    """A model with open sizes: a torch module or an ONNX file, inputs of one call, and the axes whose sizes are open.
    They are the arguments of `qcompiler.compile`."""

    model: Any
    example: Item
    dynamic: Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Case:
    """A model with data and a metric. Calibration and test items are disjoint: no test item calibrates, nor another cut
    of the same source. Where `open` is given, our systems compile it in place of `onnx`."""

    onnx: pathlib.Path
    calibration: Sequence[Item]
    test: Sequence[Item]
    judge: Judge
    open: OpenModel | None = None


Maker = Callable[[pathlib.Path, int | None], Case]
"""(folder for files made on the way, the most test items or None for all) -> the case."""


def package_folder(name: str, requirement: str) -> pathlib.Path:
    """The folder of an installed package. The package is not imported, so its own dependencies are not needed."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise MissingPackage(f"pip install --no-deps {requirement}")
    return pathlib.Path(found.submodule_search_locations[0])


def needs(module: str, requirement: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingPackage(f"pip install {requirement}")


def agreement(expected: np.ndarray, got: np.ndarray) -> float:
    """The percentage of equal elements."""
    return 100 * float(np.mean(expected == got))


def first(outputs: Outputs) -> np.ndarray:
    """The first outputs of all items, joined along one batch axis."""
    return np.concatenate([item[0] for item in outputs])


def classifier_judge(classes: np.ndarray) -> Judge:
    """Judge a classifier by how many of its classes are right, and how many are those of the float model."""

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        best, got = first(real).argmax(1), first(outputs).argmax(1)
        return {"right class, %": agreement(classes, got), "same as float, %": agreement(best, got)}

    return judge
