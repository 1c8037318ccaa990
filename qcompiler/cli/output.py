"""The output of the command line: tables or JSON on stdout, progress bars on a terminal, and files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.errors import QCompilerError
from qcompiler.regular_file import check_output, create_regular


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> None:
    """Print rows in aligned columns: the first `left` columns to the left, the others, figures, to the right."""
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
    """Print valid JSON; numbers that are not finite become null."""
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
    """A progress bar on stderr, if that is a terminal. Call the function with the number of items done."""
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
    """Refuse, before long work, an output file that cannot be written."""
    if not path.endswith(tuple(suffixes)):
        raise QCompilerError(
            "the output's name has the wrong suffix", where=f"file {path}", expected=" or ".join(suffixes)
        )
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise QCompilerError(
            "the output cannot be written", where=f"file {path}", expected=f"a writable folder {folder}"
        )
    try:
        check_output(path)
    except OSError as error:
        raise QCompilerError("the output cannot be written", where=f"file {path}", got=error.strerror) from error


def write_arrays(path: str, names: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
    """Write an .npz file with the outputs under their names; a name that repeats gets a number."""
    named: dict[str, np.ndarray] = {}
    for name, array in zip(names, arrays):
        key, count = name, 0
        while key in named:
            count += 1
            key = f"{name}_{count}"
        named[key] = array
    try:
        with create_regular(path) as file, zipfile.ZipFile(file, "w") as archive:
            for key, array in named.items():  # not np.savez: it refuses an array named "file"
                with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    except OSError as error:
        raise QCompilerError(
            "the output cannot be written", where=f"file {path}", got=error.strerror or str(error)
        ) from error


def write_text(path: str | None, text: str) -> None:
    """Write text to a file, or to stdout."""
    if path is None:
        sys.stdout.write(text)
        return
    try:
        with create_regular(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise QCompilerError(
            "the output cannot be written", where=f"file {path}", got=error.strerror or str(error)
        ) from error
