"""A graph as text that a person reads and git compares, with its arrays in a safetensors file beside it."""

from __future__ import annotations

import os

import numpy as np

from qcompiler.arguments import check_path
from qcompiler.artifact.replacing import replacing
from qcompiler.artifact.saved_model import MAX_TEXT
from qcompiler.compiled import CompiledModel
from qcompiler.errors import ArtifactError
from qcompiler.export.refusals import graph_of
from qcompiler.ir import Graph
from qcompiler.regular_file import open_regular

SUFFIX = ".qir"
Path = str | os.PathLike[str]


def arrays_path(path: str) -> str:
    """The file of the arrays that the text in `path` names."""
    return path.removesuffix(SUFFIX) + ".safetensors"


def export_text(model: CompiledModel | Graph, path: Path) -> None:
    """Write a model as text (NAME.qir), and the arrays that the text names to NAME.safetensors: docs/export.md.

    Args:
        model: a compiled model, or a graph of any stage.

    Raises:
        ArtifactError: another suffix, or a file that cannot be written.
    """
    from safetensors.numpy import save

    from qcompiler.text.printer import graph_data, print_graph

    check_path("path", path)
    graph, place = graph_of(model), os.fspath(path)
    if not place.endswith(SUFFIX):
        raise ArtifactError("the file of a text", expected=f"a path that ends in {SUFFIX}", got=place)
    arrays = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in graph_data(graph).items()}
    with replacing(arrays_path(place)) as data, replacing(path) as file:
        data.write(save(arrays))
        file.write(print_graph(graph).encode())


def load_text(path: Path) -> Graph:
    """The verified graph of a text that `export_text` wrote, or a person edited. Nothing in the files is run.

    Raises:
        ArtifactError: a file that is missing, no text, or holds other arrays than the text names.
        ParseError, VerifyError: the text is no legal graph.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from qcompiler.text.parser import parse
    from qcompiler.verify import verify

    check_path("path", path)
    place = os.fspath(path)
    text = _read(place, MAX_TEXT)
    beside = arrays_path(place)
    try:
        arrays = load(_read(beside)) if os.path.exists(beside) else {}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError("the arrays of a text cannot be read", where=f"file {beside}", got=str(error)) from None
    try:
        graph = parse(text.decode(), arrays)
    except UnicodeDecodeError as error:
        raise ArtifactError("the text is not UTF-8", where=f"file {place}", got=str(error)) from None
    if not isinstance(graph, Graph):
        raise ArtifactError("the file holds several graphs", where=f"file {place}", expected="one graph")
    verify(graph)
    return graph


def _read(path: str, most: int | None = None) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read() if most is None else file.read(most + 1)
    except OSError as error:
        raise ArtifactError(
            "the file cannot be read", where=f"file {path}", got=error.strerror or str(error)
        ) from error
    if most is not None and len(data) > most:
        raise ArtifactError("the text is too long", where=f"file {path}", expected=f"at most {most} bytes")
    return data
