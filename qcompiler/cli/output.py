"""How the command line speaks: plain tables or JSON on stdout, progress bars on a terminal, files written whole."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.errors import QCompilerError


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> None:
    """Columns as wide as they need; the first `left` ones start at the left, the others are figures."""
    cells = [list(map(str, header)), *([_figure(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        aligned = (
            cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        )
        print("  ".join(aligned).rstrip())


def _figure(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def print_json(data: Any) -> None:
    """Valid JSON: what is not finite becomes null."""
    print(json.dumps(_plain(data), indent=1, ensure_ascii=False, allow_nan=False))


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(item) for item in data]
    if isinstance(data, np.generic):
        return _plain(data.item())
    return None if isinstance(data, float) and not math.isfinite(data) else data


@contextlib.contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, advanced by calling with how many are done; nothing if stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)


def check_writable(path: str, suffixes: Sequence[str]) -> None:
    """Before long work: that a file of this name could be written."""
    if not path.endswith(tuple(suffixes)):
        raise QCompilerError(
            "the output's name has another ending", where=f"file {path}", expected=" or ".join(suffixes)
        )
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise QCompilerError(
            "the output cannot be written", where=f"file {path}", expected=f"a writable folder {folder}"
        )


def write_arrays(path: str, names: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
    """An .npz file under the outputs' names; a name that repeats gets a number."""
    named: dict[str, np.ndarray] = {}
    for name, array in zip(names, arrays):
        key, count = name, 0
        while key in named:
            count += 1
            key = f"{name}_{count}"
        named[key] = array
    try:
        with zipfile.ZipFile(path, "w") as archive:
            for key, array in named.items():  # not np.savez: it refuses an array named "file"
                with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    except OSError as error:
        raise QCompilerError(
            "the output cannot be written", where=f"file {path}", got=error.strerror or str(error)
        ) from error


def write_text(path: str | None, text: str) -> None:
    """To a file, or to stdout."""
    if path is None:
        sys.stdout.write(text)
        return
    try:
        pathlib.Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise QCompilerError(
            "the output cannot be written", where=f"file {path}", got=error.strerror or str(error)
        ) from error
