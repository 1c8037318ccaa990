""".npy and .npz files: what numpy writes is read, and every damaged or hostile file gives one clear error."""

from __future__ import annotations

import io
import pathlib
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qcompiler.cli import array_files
from qcompiler.cli.array_files import read_arrays
from qcompiler.errors import InputError

X = np.arange(12, dtype=np.float32).reshape(3, 4)
KINDS = {
    "f32": X,
    "fortran": np.asfortranarray(X),
    "big endian": X.astype(">f4"),
    "bool": X > 5,
    "i8": X.astype(np.int8),
    "f16": X.astype(np.float16),
    "no axes": np.float64(2.5),
    "empty": np.zeros((0, 3), np.int64),
    "text": np.array(["a", "bc"]),
    "no bytes": np.zeros(3, "V0"),
    "records": np.zeros(2, [("a", "f4"), ("b", "i2")]),
    "a long header": np.zeros(2, [(f"field {index}", "f4") for index in range(2000)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path: pathlib.Path, kind: str, save: Callable[..., None]) -> None:
    array = np.asarray(KINDS[kind])
    np.save(tmp_path / "a.npy", array)
    save(tmp_path / "a.npz", x=array, **{"y.npy": X})
    archive = read_arrays(tmp_path / "a.npz")
    assert list(archive) == ["x", "y.npy"] and np.array_equal(archive["y.npy"], X)
    for found in (read_arrays(tmp_path / "a.npy")[""], archive["x"]):
        assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


def npy(header: str, data: bytes = X.tobytes(), version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + data


def header(descr: str = "'<f4'", shape: str = "(3, 4)", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no plain arrays"),
    "cut in the magic": (b"\x93NUM", "no plain arrays"),
    "cut in the header": (npy(header())[:30], "no plain arrays"),
    "cut in the data": (npy(header())[:-1], "does not fit"),
    "more data": (npy(header()) + b"\0", "does not fit"),
    "another version": (npy(header(), version=b"\x09\x00"), "unknown version"),
    "not closed": (npy("{'descr': '<f4', ("), "no plain arrays"),
    "not a dict": (npy("(1, 2)"), "no plain arrays"),
    "a key that cannot be one": (npy("{[]: 1}"), "no plain arrays"),
    "a call": (npy("__import__('os').getcwd()"), "no plain arrays"),
    "deep brackets": (npy(header(shape="(" * 5000 + ")" * 5000)), "no plain arrays"),
    "a long header": (npy(header() + " " * 10**6, version=b"\x02\x00"), "no plain arrays"),
    "a huge shape": (npy(header(shape=f"({2**60},)")), "does not fit"),
    "a huge shape of nothing": (npy(header("'V0'", f"({2**80},)"), b""), "no plain arrays"),
    "a shape beyond 64 bits": (npy(header(shape=f"({2**40}, {2**40})")), "does not fit"),
    "a negative shape": (npy(header(shape="(-3, -4)")), "does not fit"),
    "a fractional shape": (npy(header(shape="(3.0, 4)")), "no plain arrays"),
    "many axes": (npy(header(shape=repr((1,) * 100)), X.tobytes()[:4]), "no plain arrays"),
    "huge elements": (npy(header("'<U2147483647'", "(1,)")), "no plain arrays|does not fit"),
    "objects": (npy(header("'|O'", "(12,)")), "never unpickled"),
    "objects in records": (npy(header("[('a', 'O')]", "(6,)")), "never unpickled"),
    "no type": (npy(header("'<f5'")), "no plain arrays"),
    "a type that is no text": (npy(header("17")), "no plain arrays"),
    "bools of 2": (npy(header("'|b1'", "(4,)"), b"\0\1\2\1"), "bool"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("where", ["npy", "stored", "packed"])
def test_bad_arrays(tmp_path: pathlib.Path, kind: str, where: str) -> None:
    raw, message = BAD[kind]
    path = tmp_path / ("a.npy" if where == "npy" else "a.npz")
    if where == "npy":
        path.write_bytes(raw)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if where == "stored" else zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", raw)
    with pytest.raises(InputError, match=message) as caught:
        read_arrays(path)
    assert str(path) in str(caught.value.where) and len(str(caught.value)) < 1000


def archive_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return made.getvalue()


def _changed(raw: bytes, at: int, value: int) -> bytes:
    return raw[:at] + bytes([value]) + raw[at + 1 :]


_PACKED = archive_of(("x.npy", npy(header())))
_CENTRAL = _PACKED.index(b"PK\x01\x02")
BAD_ARCHIVES: dict[str, bytes] = {
    "no archive": b"PK\x03\x04 cut off",
    "an encrypted member": _changed(_changed(_PACKED, 6, 1), _CENTRAL + 8, 1),
    "an unknown compression": _changed(_changed(_PACKED, 8, 97), _CENTRAL + 10, 97),
    "damaged data": _changed(_PACKED, 45, _PACKED[45] ^ 0xFF),
    "another checksum": _changed(_changed(_PACKED, 14, _PACKED[14] ^ 1), _CENTRAL + 16, _PACKED[14] ^ 1),
    "a member that is no array": archive_of(("x.npy", npy(header())), ("notes.txt", b"hello")),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_bad_archives(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(BAD_ARCHIVES[kind])
    with pytest.raises(InputError) as caught:
        read_arrays(path)
    assert str(path) in str(caught.value.where)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.npz").write_bytes(archive_of(("x.npy", npy(header())), ("x.npy", npy(header()))))
    with pytest.raises(InputError, match="no .npz"):
        read_arrays(tmp_path / "a.npz")


def test_how_much_an_archive_may_unpack_to(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "MOST_UNPACKED", 100_000)
    path = tmp_path / "a.npz"
    half = {"descr": "|i1", "fortran_order": False, "shape": (49_800,)}
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, half)
    member = held.getvalue() + bytes(49_800)
    path.write_bytes(archive_of(("x.npy", member), ("y.npy", member)))
    assert path.stat().st_size < 1000 and list(read_arrays(path)) == ["x", "y"]
    path.write_bytes(archive_of(("x.npy", member), ("y.npy", member), ("z.npy", member)))
    with pytest.raises(InputError, match="unpacks to too much") as caught:
        read_arrays(path)
    assert "'z.npy'" in str(caught.value.got) and "savez" in str(caught.value.hint)
    noise = np.random.default_rng(0).integers(0, 4, 400_000, dtype=np.int8)  # packs to a quarter
    np.savez_compressed(path, x=noise)
    assert np.array_equal(read_arrays(path)["x"], noise)


BOMB = """
import resource, sys
from qcompiler.cli.array_files import read_arrays
from qcompiler.errors import InputError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_arrays(sys.argv[1])
except InputError as error:
    print("refused", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_bomb_takes_little_memory(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in "xyz":
            with archive.open(f"{name}.npy", "w") as member:
                shape: Any = (200 * 2**20,)
                np.lib.format.write_array_header_1_0(member, {"descr": "|i1", "fortran_order": False, "shape": shape})
                for _ in range(200):
                    member.write(bytes(2**20))
    done = subprocess.run([sys.executable, "-c", BOMB, str(path)], capture_output=True, timeout=60, check=True)
    outcome, grown = done.stdout.decode().split()
    assert outcome == "refused" and int(grown) * 1024 < path.stat().st_size + 256 * 2**20
