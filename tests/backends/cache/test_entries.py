"""The cache of object code between processes: what a second process emits, and all ways to plant or damage an entry."""

from __future__ import annotations

import logging
import os
import pathlib
import stat
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import knobs
from qcompiler.backends import rules
from qcompiler.backends.cache import entries as object_cache
from qcompiler.backends.cache import folder as cache_folder
from qcompiler.backends.cache.folder import Bad
from qcompiler.backends.codegen import kernel_store
from qcompiler.backends.codegen.jit import emitted_kernels
from qcompiler.backends.kernel_ir.definition import KernelDef, kernel
from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.kernels import elementwise
from qcompiler.backends.target import known_targets, native_target, parse_target
from qcompiler.errors import LoweringError
from tests.backends.signatures import Y

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the cache needs folders opened by descriptor")

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODEL = """qcompiler 1
graph main(%x: f32[2,16]) stage=float {
  %a = add(%x, %x) : f32[2,16]
  %b = mul(%a, %x) : f32[2,16]
  return %b
}
"""
X = np.linspace(-2, 2, 32, dtype=np.float32).reshape(2, 16)
TWO = {"key one": b"object one " * 9, "key two": b"object two"}


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A cache folder that does not exist yet. Warnings are given anew, and this process holds no kernels."""
    monkeypatch.setattr(cache_folder, "_said", set())
    monkeypatch.setattr(kernel_store, "_loaded", {})
    monkeypatch.setenv("QC_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


def entry(folder: pathlib.Path, key: str) -> pathlib.Path:
    return folder / object_cache.entry_name(key)


def emitted() -> int:
    return sum(emitted_kernels.values())


def run_model() -> np.ndarray:
    """The result of a model whose kernels all come from the cache or are emitted now."""
    kernel_store._loaded.clear()
    return qc.compile(qc.parse(MODEL), None)(X)


# -- what it is for

CHILD = """
import hashlib, sys
import numpy as np
import qcompiler as qc
from qcompiler.backends.codegen import dispatcher_store
from qcompiler.backends.codegen.jit import emitted_kernels
model = qc.compile(qc.parse(sys.argv[1]), None)
y = model(np.linspace(-2, 2, 32, dtype=np.float32).reshape(2, 16))
print(sum(emitted_kernels.values()), len(dispatcher_store.emitted), y.tobytes().hex())
"""


def child(**environment: str) -> tuple[int, int, str]:
    """(kernels emitted, dispatchers emitted, bits of the result) of a new process."""
    found = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), MODEL], env=found, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    kernels, dispatchers, bits = done.stdout.split()
    return int(kernels), int(dispatchers), bits


def test_a_second_process_emits_nothing_and_has_the_same_bits(folder: pathlib.Path) -> None:
    first = child()
    assert first[0] > 0 and first[1] == 1
    assert child() == (0, 0, first[2])
    assert first[2] == (2 * X * X).tobytes().hex()
    assert child(QC_CACHE="") == first
    assert len(list(folder.iterdir())) == first[0] + 1


def test_two_processes_at_once(folder: pathlib.Path) -> None:
    code = [sys.executable, "-c", CHILD, MODEL]
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(code, env=found, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert [error for _, error in outputs] == ["", ""]
    assert len({output.split()[2] for output, _ in outputs}) == 1
    assert child()[:2] == (0, 0)


def test_without_a_cache_nothing_is_written(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kernels, dispatchers, _ = child(QC_CACHE="", HOME=str(home), XDG_CACHE_HOME=str(home / "xdg"))
    assert kernels > 0 and dispatchers == 1 and list(home.iterdir()) == []
    monkeypatch.setenv("QC_CACHE", "")
    assert object_cache.key_of("x") is None and object_cache.load(["x"]) == {}
    object_cache.store(TWO)


@pytest.mark.parametrize(
    "platform, xdg, expected",
    [
        ("linux", "", ".cache/qcompiler"),
        ("linux", "/x/cache", "/x/cache/qcompiler"),
        ("linux", "relative", ".cache/qcompiler"),
        ("darwin", "", "Library/Caches/qcompiler"),
        ("darwin", "/x", "/x/qcompiler"),
    ],
)
def test_the_users_folder(platform: str, xdg: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QC_CACHE")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder.folder_path() == os.path.join("/home/me", expected)


# -- keys


def test_entries_come_back_whole_and_private(folder: pathlib.Path) -> None:
    umask = os.umask(0)
    try:
        object_cache.store(TWO)
    finally:
        os.umask(umask)
    assert object_cache.load(["key two", "key three", "key one"]) == TWO
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.name for path in folder.iterdir()} == {object_cache.entry_name(key) for key in TWO}


def test_a_key_says_everything_that_determines_code(folder: pathlib.Path) -> None:
    target = native_target()
    key = KernelKey.of(elementwise.REAL[1], {"op": "exp", "dtype": "f32"})
    text = kernel_store.entry_key(key, target)
    assert text is not None
    for part in (
        qc.__version__,
        "sources ",
        "llvmlite ",
        "LLVM ",
        target.key,
        target.triple,
        "elementwise:REAL[1]",
        "op='exp'",
        "dtype='f32'",
    ):
        assert part in text
    others = [
        kernel_store.entry_key(KernelKey.of(elementwise.REAL[2], dict(key.static)), target),
        kernel_store.entry_key(KernelKey.of(elementwise.REAL[1], {"op": "log", "dtype": "f32"}), target),
        *(kernel_store.entry_key(key, parse_target(name)) for name in known_targets() if parse_target(name) != target),
    ]
    assert len({text, *others}) == 1 + len(others)
    assert kernel_store.entry_key(key, target) == text


def test_static_arguments_that_print_alike_have_keys_of_their_own(folder: pathlib.Path) -> None:
    texts = {
        kernel_store.entry_key(KernelKey.of(elementwise.map_clamp, {"n": n}), native_target())
        for n in (1, True, 1.0, "1", (1,), ((1,),), (1, 1), None, "None")
    }
    assert len(texts) == 9
    with pytest.raises(LoweringError, match="no plain value"):
        kernel_store.entry_key(KernelKey.of(elementwise.map_clamp, {"n": object()}), native_target())


def test_every_kernel_of_the_backends_can_be_stored() -> None:
    rules.load()
    named = [name for name in sys.modules if name.startswith("qcompiler.backends.kernels.")]
    found = [value for name in named for value in vars(sys.modules[name]).values() if isinstance(value, KernelDef)]
    keys = {KernelKey.of(definition, {}) for definition in {*found, *elementwise.REAL.values()}}
    assert len(keys) > 30 and not any(key.is_local for key in keys)
    assert all(KernelKey.of(key.definition, {}) == key for key in keys)


def test_kernels_from_elsewhere_are_not_stored(folder: pathlib.Path) -> None:
    @kernel
    def zero(b, a: Y) -> None:
        b.store(b.i64(0), a.y)

    key, before = KernelKey.of(zero, {}), emitted()
    assert kernel_store.load([key], native_target())[key].address
    assert emitted() == before + 1 and not folder.exists()


def test_sources_newer_than_the_process_keep_nothing(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(object_cache, "_IMPORTED_NS", 0)
    object_cache._versions.cache_clear()
    try:
        assert object_cache.key_of("x") is None
        assert "newer than this process" in caplog.text
    finally:
        object_cache._versions.cache_clear()


# -- bad entries: removed, named in the log, made again


def corrupted(raw: bytes) -> dict[str, bytes]:
    """The bytes of an entry with one bit flipped in each region, and cut off at each boundary."""
    key = len("key one")
    starts = {
        "magic": 0,
        "format": 8,
        "key length": 12,
        "object length": 16,
        "digest": 24,
        "key": 56,
        "object": 56 + key,
        "last byte": len(raw) - 1,
    }
    flipped = {name: raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :] for name, at in starts.items()}
    cut = {f"cut at {at}": raw[:at] for at in (0, 1, 24, 55, 56, 60, 56 + key, len(raw) - 1)}
    return {**flipped, **cut, "longer": raw + b"\0", "other": b"not an entry at all" * 9}


@pytest.mark.parametrize("damage", sorted(corrupted(object_cache._packed("key one", TWO["key one"]))))
def test_a_damaged_entry_is_removed(damage: str, folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    object_cache.store(TWO)
    path = entry(folder, "key one")
    path.write_bytes(corrupted(path.read_bytes())[damage])
    assert object_cache.load(list(TWO)) == {"key two": TWO["key two"]}
    assert not path.exists() and entry(folder, "key two").exists()
    [record] = caplog.records
    assert path.name in record.getMessage() and record.levelno == logging.WARNING
    object_cache.store(TWO)
    assert object_cache.load(list(TWO)) == TWO


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_seen(bit: int) -> None:
    raw = object_cache._packed("key", b"object")
    assert object_cache._unpacked(raw, "key") == b"object"
    for at in range(len(raw)):
        with pytest.raises(Bad):
            object_cache._unpacked(raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :], "key")


def test_a_whole_entry_under_anothers_name_does_not_load(
    folder: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    object_cache.store(TWO)
    os.replace(entry(folder, "key two"), entry(folder, "key one"))
    assert object_cache.load(list(TWO)) == {}
    assert "another key" in caplog.text and not list(folder.iterdir())


def test_a_model_whose_entries_are_all_damaged_is_emitted_again(
    folder: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = emitted()
    expected = run_model()
    count = emitted() - before
    assert count > 0
    assert np.array_equal(run_model(), expected) and emitted() == before + count
    for path in folder.iterdir():
        raw = bytearray(path.read_bytes())
        raw[-40] ^= 1
        path.write_bytes(raw)
    assert np.array_equal(run_model(), expected)
    assert emitted() == before + 2 * count and len(caplog.records) == count
    assert np.array_equal(run_model(), expected) and emitted() == before + 2 * count


@pytest.mark.parametrize("what", ["link", "dangling link", "folder", "pipe", "writable"])
def test_an_entry_that_is_no_private_file(
    what: str, folder: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    object_cache.store(TWO)
    path, moved = entry(folder, "key one"), tmp_path / "moved"
    raw = path.read_bytes()
    if what == "writable":
        path.chmod(0o666)
    else:
        path.unlink()
        moved.write_bytes(raw)
    if "link" in what:
        path.symlink_to(moved if what == "link" else tmp_path / "nowhere")
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    assert object_cache.load(["key one"]) == {}
    assert path.name in caplog.text
    assert what == "writable" or moved.read_bytes() == raw
    assert os.path.lexists(path) is (what == "folder")


def test_left_over_temporary_files_are_not_read_and_go_in_time(folder: pathlib.Path) -> None:
    object_cache.store({"key one": b"x"})
    half, fresh = folder / ".tmp-0123456789abcdef", folder / ".tmp-fedcba9876543210"
    for path in (half, fresh):
        path.write_bytes(entry(folder, "key one").read_bytes()[:60])
    os.utime(half, (1, 1))
    assert object_cache.load(list(TWO)) == {"key one": b"x"}
    object_cache.store(TWO)
    assert not half.exists() and fresh.exists()


def test_the_oldest_entries_go_where_there_is_too_much(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        object_cache.store({f"key {number}": b"x" * 1000})
        os.utime(entry(folder, f"key {number}"), (number + 1, number + 1))
    monkeypatch.setattr(object_cache, "MAX_FOLDER", 6000)
    object_cache.store({"new": b"x" * 1000})
    found = object_cache.load([*(f"key {number}" for number in range(8)), "new"])
    assert sorted(found) == ["key 7", "new"]


def test_an_entry_in_use_outlives_newer_ones(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        object_cache.store({f"key {number}": b"x" * 1000})
        os.utime(entry(folder, f"key {number}"), (number + 1, number + 1))
    assert list(object_cache.load(["key 0"])) == ["key 0"]
    monkeypatch.setattr(object_cache, "MAX_FOLDER", 6000)
    object_cache.store({"new": b"x" * 1000})
    assert sorted(object_cache.load([*(f"key {number}" for number in range(8)), "new"])) == ["key 0", "new"]


def test_an_entry_that_cannot_be_touched_is_used(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    object_cache.store(TWO)
    monkeypatch.setattr(os, "utime", refuse)
    assert object_cache.load(list(TWO)) == TWO


# -- bad folders: not used, said once


def refused(folder: pathlib.Path, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """Check that nothing is read from the folder and nothing written to it, and that the log says why, once."""
    before = sorted(os.listdir(folder)) if os.access(folder, os.R_OK) and folder.is_dir() else None
    assert object_cache.load(list(TWO)) == {}
    object_cache.store({"key three": b"3"})
    assert object_cache.load(["key three"]) == {}
    if before is not None:
        assert sorted(os.listdir(folder)) == before
    [record] = caplog.records
    assert reason in record.getMessage() and str(folder) in record.getMessage() and record.levelno == logging.WARNING
    assert np.array_equal(run_model(), 2 * X * X)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702, 0o750, 0o705, 0o777])
def test_a_folder_that_others_may_enter(mode: int, folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    object_cache.store(TWO)
    folder.chmod(mode)
    refused(folder, caplog, f"its mode is {mode:o}")


def test_a_folder_of_another_user(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    object_cache.store(TWO)
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    refused(folder, caplog, "it belongs to user")


def test_a_folder_that_is_a_link(
    folder: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    object_cache.store(TWO)
    os.rename(folder, tmp_path / "real")
    folder.symlink_to(tmp_path / "real")
    refused(folder, caplog, "symbolic link")
    assert len(list((tmp_path / "real").iterdir())) == 2


def test_a_folder_that_is_a_file(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.parent.mkdir()
    folder.write_text("no folder")
    refused(folder, caplog, "Not a directory")


def test_a_folder_that_cannot_be_made(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.parent.write_text("a file where the folder's parent should be")
    refused(folder, caplog, "not used")


def test_a_full_disk(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    object_cache.store(TWO)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    object_cache.store({"key three": b"3"})
    object_cache.store({"key three": b"3"})
    assert object_cache.load(["key three", *TWO]) == TWO
    [record] = caplog.records
    assert "No space left" in record.getMessage()
    assert len(list(folder.iterdir())) == 2, "a temporary file is left"
    assert np.array_equal(run_model(), 2 * X * X)


def test_a_folder_that_is_read_only_is_read(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    object_cache.store(TWO)
    plain = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return plain(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    object_cache.store({"key three": b"3"})
    assert object_cache.load(["key three", *TWO]) == TWO
    assert "Read-only file system" in caplog.text


def test_an_override_in_the_process(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with knobs.CACHE(str(tmp_path / "other")):
        object_cache.store(TWO)
        assert object_cache.load(list(TWO)) == TWO
    assert not folder.exists() and object_cache.load(list(TWO)) == {}
