"""Every function that reads a path refuses pipes, devices, sockets and folders at once."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

import qcompiler as qc
from qcompiler.cli.inputs import read_arrays
from qcompiler.errors import ArgumentError, ArtifactError, InputError, QCompilerError, TraceError
from qcompiler.regular_file import open_regular

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
