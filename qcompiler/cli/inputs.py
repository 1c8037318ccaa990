"""The inputs of the command line: models and arrays, from files or Python.

A model is `FILE.onnx`, a saved model `FILE.qc.safetensors`, a text `FILE.qir` with its arrays in `FILE.safetensors`,
or, only with --python since its code runs, `package.module:name` (`name()` to call it first). Arrays are .npz or .npy
files (`array_files.py`), or a folder of them.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler.cli.array_files import read_arrays
from qcompiler.dims import Dim
from qcompiler.errors import InputError, QCompilerError, TraceError
from qcompiler.ir import Graph, Value
from qcompiler.types import TensorType

_log = logging.getLogger(__name__)
_DEFAULT_BATCH = 32
_PYTHON_MODEL = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)(\(\))?")


# -- models


def load_model(text: str, *, python: bool = False, types: Sequence[str] = ()) -> Graph:
    """The graph that a MODEL argument names: traced, imported or loaded.

    Raises:
        QCompilerError: a file that is missing or of an unknown kind; a Python model without --python or without --type.
    """
    from qcompiler import compiler

    if text.endswith(".safetensors"):
        from qcompiler.artifact import load_graph

        return load_graph(text)
    if text.endswith(".qir"):
        from qcompiler.export.text import load_text

        if not os.path.exists(text):
            raise QCompilerError("no such file", where=f"file {text}")
        return load_text(text)
    if text.endswith(".onnx"):
        if not os.path.exists(text):
            raise QCompilerError("no such file", where=f"file {text}")
        return compiler.trace(text)
    match = _PYTHON_MODEL.fullmatch(text)
    if match is None:
        raise QCompilerError(
            "not a model",
            got=text,
            expected="FILE.onnx, FILE.qc.safetensors, FILE.qir, or package.module:name with --python",
        )
    if not python:
        raise QCompilerError(f"{text} is Python code, which runs only when you ask for it", hint="add --python")
    if not types:
        raise QCompilerError(
            "a Python model needs the types of its inputs", where=text, hint='--type "f32[B,3,224,224]", once per input'
        )
    example, dynamic = _examples(types)
    return compiler.trace(_attribute(*match.groups()), example, dynamic=dynamic)


def given_model(options: argparse.Namespace) -> Graph:
    """The graph that the arguments MODEL, --python and --type name; see `load_model`."""
    return load_model(options.model, python=options.python, types=options.type)


def is_file(text: str) -> bool:
    """Whether a MODEL argument names a file that exists."""
    return text.endswith((".onnx", ".safetensors", ".qir")) and os.path.exists(text)


def _attribute(module: str, path: str, call: str | None) -> Any:
    """The object `module:path`, or what it returns where the argument ends in ()."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise TraceError(
            f"no module {error.name!r}", where=f"{module}:{path}", hint=f"modules are looked for in {folder} too"
        ) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise TraceError(f"{module} has no {name!r}", where=f"{module}:{path}") from None
    return found() if call else found


def _examples(types: Sequence[str]) -> tuple[tuple[np.ndarray, ...], dict[str | int, dict[int, str]]]:
    """Arrays to trace with, and the `dynamic` of compile(), for `dtype[sizes]` texts; a named size is dynamic."""
    arrays = []
    dynamic: dict[str | int, dict[int, str]] = {}
    named: dict[str, int] = {}
    for position, text in enumerate(types):
        type = parse_type(text)
        shape = []
        for axis, size in enumerate(type.shape):
            if isinstance(size, Dim):
                if str(size) not in size.names():
                    raise TraceError("a size of an input is a number or a name", got=text)
                dynamic.setdefault(position, {})[axis] = str(size)
                size = named.setdefault(str(size), 2 + len(named))
            shape.append(size)
        arrays.append(np.zeros(shape, type.dtype.numpy))
    return tuple(arrays), dynamic


def parse_type(text: str) -> TensorType:
    """A type in its text form, without quantization parameters: `f32[B,3,224,224]`."""
    from qcompiler.text.parser import parse

    if re.fullmatch(r"\w+\[[\w,\s]*\]", text) is None:
        raise TraceError("not a type", got=text[:200], expected="as f32[B,3,224,224]")
    graph = parse(f"qcompiler 1\ngraph g(%x: {text.replace(' ', '')}) stage=float {{ return %x }}\n")
    assert isinstance(graph, Graph)
    return graph.inputs[0].type


# -- arrays


def named_inputs(
    arrays: dict[str, np.ndarray],
    inputs: Sequence[Value],
    path: str | os.PathLike[str],
    warn: Callable[..., None] = _log.warning,
) -> list[np.ndarray]:
    """The arrays of a file in the order of the inputs: by name, or the only one for the only input."""
    names = [value.name for value in inputs]
    if all(name in arrays for name in names):
        ignored = [name for name in arrays if name not in names]
        if ignored:
            warn("%s: not an input, so ignored: %s", path, ", ".join(ignored))
        return [arrays[name] for name in names]
    if len(names) == 1 and len(arrays) == 1:
        return list(arrays.values())
    raise InputError(
        "the names of the arrays are not those of the inputs",
        where=f"file {os.fspath(path)}",
        expected=", ".join(names),
        got=", ".join(arrays),
    )


def read_inputs(path: str, graph: Graph) -> list[np.ndarray]:
    """The inputs of one call, from a file."""
    return named_inputs(read_arrays(path), graph.inputs, path)


@dataclass(frozen=True)
class Data:
    """Calibration or test data: files in order, each cut into the inputs of single calls.

    An array with one axis more than its input holds one call per row. Otherwise axis 0 is cut into calls: of the
    input's own size where that is fixed, else of `batch` samples.
    """

    files: tuple[pathlib.Path, ...]
    inputs: tuple[Value, ...]
    batch: int | None

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return self._calls(_log.warning)

    def count(self) -> int | None:
        """The number of calls, where it is known without reading many files."""
        return sum(1 for _ in self._calls(lambda *message: None)) if len(self.files) == 1 else None

    def _calls(self, warn: Callable[..., None]) -> Iterator[list[np.ndarray]]:
        for path in self.files:
            yield from self._cut(named_inputs(read_arrays(path), self.inputs, path, warn), path, warn)

    def _cut(
        self, arrays: list[np.ndarray], path: pathlib.Path, warn: Callable[..., None]
    ) -> Iterator[list[np.ndarray]]:
        lengths = {array.shape[0] for array in arrays if array.ndim}
        if len(lengths) != 1 or not all(array.ndim for array in arrays):
            yield arrays
            return
        (length,) = lengths
        if all(array.ndim == value.type.rank + 1 for array, value in zip(arrays, self.inputs)):
            for index in range(length):
                yield [array[index] for array in arrays]
            return
        size = self._samples(arrays)
        if size is None:
            yield arrays
            return
        fixed = not any(isinstance(value.type.shape[0], Dim) for value in self.inputs)
        for start in range(0, length, size):
            if fixed and start + size > length:
                warn("%s: the last %d samples do not fill a call of %d and are left out", path, length - start, size)
                return
            yield [array[start : start + size] for array in arrays]

    def _samples(self, arrays: Sequence[np.ndarray]) -> int | None:
        """The number of samples in one call; None where the arrays are one call as they are."""
        if any(array.ndim != value.type.rank or value.type.rank == 0 for array, value in zip(arrays, self.inputs)):
            return None
        sizes = {value.type.shape[0] for value in self.inputs}
        fixed = [size for size in sizes if not isinstance(size, Dim)]
        if not fixed:
            return self.batch or _DEFAULT_BATCH
        if len(sizes) > 1 or fixed[0] == 0:
            return None
        if self.batch not in (None, fixed[0]):
            raise InputError("--batch differs from the model's fixed batch", expected=fixed[0], got=self.batch)
        return int(fixed[0])


def open_data(path: str, graph: Graph, batch: int | None = None) -> Data:
    """The data in an .npz or .npy file, or in all such files of a folder in the order of their names."""
    place = pathlib.Path(path)
    if place.is_dir():
        files = tuple(sorted(file for file in place.iterdir() if file.suffix in (".npz", ".npy")))
        if not files:
            raise InputError("the folder holds no data", where=f"folder {place}", expected=".npz or .npy files")
    elif place.is_file():
        files = (place,)
    else:
        raise InputError("no such file or folder", where=f"file {place}")
    return Data(files, tuple(graph.inputs), batch)


def random_inputs(graph: Graph, sizes: dict[str, int], seed: int) -> list[np.ndarray]:
    """Random inputs of one call: standard normal floats, any codes; 0 or 1 for other integers, which may be indices."""
    rng = np.random.default_rng(seed)
    missing = [name for name in graph.dim_names if name not in sizes]
    if missing:
        raise InputError("sizes are not given", got=", ".join(missing), hint=f"--size {missing[0]}=1")
    arrays = []
    for value in graph.inputs:
        type = value.type.bind(sizes)
        array: np.ndarray
        if type.dtype.is_float:
            array = rng.standard_normal(type.sizes)
        elif type.quant is not None:
            array = rng.integers(type.quant.qmin, type.quant.qmax, type.sizes, endpoint=True)
        else:
            array = rng.integers(0, 2, type.sizes)
        arrays.append(array.astype(type.dtype.numpy))
    return arrays
