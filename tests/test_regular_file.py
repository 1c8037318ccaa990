"""Every function that reads a path refuses pipes, devices, sockets and folders at once."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.backends.object_export.files import replace_together
from qcompiler.cli.inputs import read_arrays
from qcompiler.cli.output import check_writable, write_arrays, write_text
from qcompiler.draw import draw
from qcompiler.errors import ArgumentError, ArtifactError, InputError, QCompilerError, TraceError
from qcompiler.ir import Graph
from qcompiler.regular_file import create_regular, open_regular
from qcompiler.types import tensor

DOORS: dict[str, tuple[Callable[[pathlib.Path], object], type[QCompilerError], str]] = {
    "qc.trace of ONNX": (qc.trace, TraceError, ".onnx"),
    "qc.trace of a saved model": (qc.trace, ArtifactError, ".qc.safetensors"),
    "qc.load": (qc.load, ArtifactError, ".qc.safetensors"),
    "Calibration.load": (qc.Calibration.load, ArtifactError, ".calibration.safetensors"),
    "an .npz of the command line": (read_arrays, InputError, ".npz"),
    "an .npy of the command line": (read_arrays, InputError, ".npy"),
}


def _pipe(path: pathlib.Path) -> None:
    os.mkfifo(path)


def _socket(path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


KINDS: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    "pipe": (_pipe, "named pipe"),
    "linked pipe": (lambda path: (_pipe(path.with_name("p")), path.symlink_to("p")), "named pipe"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "character device"),
    "terminal": (lambda path: path.symlink_to("/dev/tty"), "character device"),
    "socket": (_socket, "socket"),
    "folder": (lambda path: path.mkdir(), "folder"),
}


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", KINDS)
def test_special_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, door: str, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    (read, error, suffix), (make, text) = DOORS[door], KINDS[kind]
    path = pathlib.Path(f"f{suffix}")
    make(path)
    with pytest.raises(error, match=text):
        read(path)


@pytest.mark.parametrize("door", DOORS)
def test_paths_that_are_none(tmp_path: pathlib.Path, door: str) -> None:
    read, error, suffix = DOORS[door]
    for name in (f"missing{suffix}", f"a\0b{suffix}", f"{'x' * 300}{suffix}"):
        with pytest.raises((error, ArgumentError)):
            read(tmp_path / name)


def test_a_file_that_becomes_a_pipe_after_it_was_looked_at(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, path = tmp_path / "plain", tmp_path / "f"
    plain.write_bytes(b"x")
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda *args, **kwargs: os.lstat(plain))
    with pytest.raises(OSError, match="named pipe"):
        open_regular(path)


# -- outputs


def _graph() -> Graph:
    graph = Graph()
    graph.set_outputs([graph.add_input("x", tensor("f32", 2))])
    return graph


def _calibrate(path: pathlib.Path) -> None:
    x = np.ones((1, 4), np.float32)
    qc.calibrate(qc.prepare(qc.trace(nn.Linear(4, 2), (x,)), "int8"), [x]).save(path)


EXITS: dict[str, tuple[Callable[[pathlib.Path], object], str]] = {
    "save": (lambda path: qc.compile(_graph(), None, target="reference").save(path), ".qc.safetensors"),
    "Calibration.save": (_calibrate, ".calibration.safetensors"),
    "draw": (lambda path: draw(_graph(), path), ".dot"),
    "object files": (lambda path: replace_together({path: b"object", path.with_suffix(".h"): b"header"}), ".o"),
    "arrays of the command line": (lambda path: write_arrays(str(path), ["y"], [np.ones(2, np.float32)]), ".npz"),
    "text of the command line": (lambda path: write_text(str(path), "text"), ".qir"),
    "a check of the command line": (lambda path: check_writable(str(path), [".npz"]), ".npz"),
}


@pytest.mark.parametrize("exit", EXITS)
@pytest.mark.parametrize("kind", KINDS)
def test_special_files_are_not_written_or_replaced(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, exit: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (write, suffix), (make, text) = EXITS[exit], KINDS[kind]
    path = pathlib.Path(f"f{suffix}")
    make(path)
    before = (path.lstat().st_ino, path.stat().st_ino, sorted(os.listdir()))
    with pytest.raises(QCompilerError, match=text):
        write(path)
    assert (path.lstat().st_ino, path.stat().st_ino, sorted(os.listdir())) == before


@pytest.mark.parametrize("exit", EXITS)
def test_plain_files_are_replaced(tmp_path: pathlib.Path, exit: str) -> None:
    write, suffix = EXITS[exit]
    path = tmp_path / f"f{suffix}"
    write(path)
    path.write_bytes(b"old" * 100_000)
    write(path)
    assert exit.startswith("a check") or (0 < path.stat().st_size < 300_000)


def test_an_output_that_becomes_a_pipe_after_it_was_looked_at(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, path = tmp_path / "plain", tmp_path / "f"
    plain.write_bytes(b"x")
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda *args, **kwargs: os.lstat(plain))
    with pytest.raises(OSError):
        create_regular(path)  # no one reads the pipe
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="named pipe"):
        create_regular(path)
    os.close(reader)
