"""Programs of saved models between processes: what a second load skips, that it gives the same bits, and all ways to
damage what it finds."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import knobs
from qcompiler.artifact import saved_model as artifact
from qcompiler.backends.cache import blocks as block_cache
from qcompiler.backends.cache import entries as object_cache
from qcompiler.backends.cache import folder as cache_folder
from qcompiler.backends.cache import programs as program_cache
from qcompiler.backends.codegen import kernel_store
from qcompiler.backends.codegen.jit import emitted_kernels
from qcompiler.backends.target import native_target, parse_target
from qcompiler.errors import ArtifactError, InputError, LoweringError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the cache needs folders opened by descriptor")

ROOT = pathlib.Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(0)


class Net(qc.nn.Module):
    """A model that is large enough for deferred constants (packed weights) beside small ones."""

    def __init__(self):
        super().__init__()
        self.conv = qc.nn.Conv2d(4, 40, 3, padding=1)
        self.narrow = qc.nn.Conv2d(40, 24, 1)
        self.head = qc.nn.Linear(24, 5)

    def forward(self, x):
        x = np.maximum(self.narrow(np.maximum(self.conv(x), 0)), 0)
        return {"scores": self.head(x.mean(axis=(2, 3))), "mean": x.mean(axis=(1, 2, 3))}


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A cache folder that does not exist yet. Warnings are given anew, and this process holds no kernels."""
    monkeypatch.setattr(cache_folder, "_said", set())
    monkeypatch.setattr(kernel_store, "_loaded", {})
    monkeypatch.setenv("QC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def batches() -> list[np.ndarray]:
    return [RNG.normal(size=(2, 4, 9, 9)).astype(np.float32) for _ in range(2)]


@pytest.fixture(scope="module")
def model(batches: list[np.ndarray]) -> qc.Graph:
    return qc.compile(Net(), "int8", (batches[0],), calibration_data=batches, target="reference").graph


@pytest.fixture(scope="module")
def dynamic(batches: list[np.ndarray]) -> qc.Graph:
    return qc.compile(
        Net(), "int8", (batches[0],), calibration_data=batches, target="reference", dynamic={"x": {0: "B"}}
    ).graph


@pytest.fixture
def saved(model: qc.Graph, tmp_path: pathlib.Path) -> pathlib.Path:
    artifact.save_graph(model, tmp_path / "net.qc.safetensors")
    return tmp_path / "net.qc.safetensors"


def forget() -> None:
    """Forget the kernels that this process holds, as if it were a new one."""
    kernel_store._loaded.clear()


def outputs(compiled: qc.CompiledModel, x: np.ndarray) -> list[np.ndarray]:
    found = compiled(x)
    return [found["scores"], found["mean"]]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))


def is_restored(compiled: qc.CompiledModel) -> bool:
    """Whether a load took a stored program, in which case nothing has asked for the graph yet."""
    return callable(compiled.source) and "graph" not in vars(compiled) and not compiled.program.has_graph


def test_a_second_load_reads_no_graph_and_has_the_same_bits(
    saved: pathlib.Path,
    folder: pathlib.Path,
    model: qc.Graph,
    batches: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = outputs(qc.compile(model, target="reference"), batches[0])
    first = qc.load(saved)
    assert same(outputs(first, batches[0]), expected) and not is_restored(first)
    forget()
    emitted, read = sum(emitted_kernels.values()), []
    monkeypatch.setattr(artifact, "_graph", lambda *given, real=artifact._graph: read.append(1) or real(*given))
    second = qc.load(saved)
    for threads in (1, 2):
        second.threads = threads
        assert same(outputs(second, batches[0]), expected)
    assert is_restored(second) and not read and sum(emitted_kernels.values()) == emitted
    with pytest.raises(InputError, match="another shape"):
        second(batches[0][:1])
    assert not read
    assert str(second.graph) == str(model) and len(read) == 1  # and all that needs the graph has it
    assert str(second.report()) == str(first.report()) and second.program.python_nodes == {}
    again = qc.compile(second.graph, target=second.target)
    assert same(outputs(again, batches[0]), expected)


def test_a_stored_program_is_the_lowered_one(saved: pathlib.Path, folder: pathlib.Path) -> None:
    first, second = qc.load(saved).program.bind({}), qc.load(saved).program.bind({})
    assert first is not second and first.image is not second.image
    assert first.image == second.image and str(first.image) == str(second.image)
    assert first.constants.data.tobytes() == second.constants.data.tobytes()
    assert not second.constants.data.flags.writeable


CHILD = """
import sys
import numpy as np
import qcompiler as qc
from qcompiler.backends.codegen.jit import emitted_kernels
model = qc.load(sys.argv[1])
found = model(np.load(sys.argv[2]))
print(callable(model.source), sum(emitted_kernels.values()), found["scores"].tobytes().hex())
"""


def test_another_process(
    saved: pathlib.Path, folder: pathlib.Path, batches: list[np.ndarray], tmp_path: pathlib.Path
) -> None:
    np.save(tmp_path / "x.npy", batches[0])

    def child(seed: str) -> list[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(saved), str(tmp_path / "x.npy")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    first, second = child("1"), child("2")
    assert first[0] == "False" and int(first[1]) > 0
    assert second == ["True", "0", first[2]]


def test_another_batch_size_shares_the_constants_and_emits_nothing(
    dynamic: qc.Graph, folder: pathlib.Path, tmp_path: pathlib.Path, batches: list[np.ndarray]
) -> None:
    path = tmp_path / "net.qc.safetensors"
    artifact.save_graph(dynamic, path)
    reference = qc.compile(dynamic, target="reference")
    outputs(qc.load(path), batches[0])
    forget()
    emitted = sum(emitted_kernels.values())
    compiled = qc.load(path)
    assert same(outputs(compiled, batches[0]), outputs(reference, batches[0])) and is_restored(compiled)
    assert same(outputs(compiled, batches[0][:1]), outputs(reference, batches[0][:1]))
    one, two = (compiled.program.bind({"B": n}) for n in (1, 2))
    assert one.constants is two.constants and sum(emitted_kernels.values()) == emitted
    assert one.image.own_constant_bytes < one.image.constant_bytes // 8  # tables of rows, no weights


@pytest.mark.parametrize("target", ["x86-64+avx2", "aarch64-linux+neon"])
def test_each_target_has_its_own(
    target: str, saved: pathlib.Path, folder: pathlib.Path, model: qc.Graph, batches: list[np.ndarray]
) -> None:
    if not parse_target(target).can_run():
        pytest.skip(f"{target} does not run here")
    expected = outputs(qc.compile(model, target="reference"), batches[0])
    qc.load(saved)
    assert is_restored(qc.load(saved, target=target)) == (parse_target(target) == native_target())
    forget()
    compiled = qc.load(saved, target=target)
    assert is_restored(compiled) and compiled.target == parse_target(target).name
    assert same(outputs(compiled, batches[0]), expected)


def test_what_is_not_stored(
    folder: pathlib.Path, tmp_path: pathlib.Path, saved: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """qcompiler 1
graph g(%x: f64[4]) stage=float {
  %y = exp(%x) : f64[4]
  return %y
}
"""
    python = tmp_path / "python.qc.safetensors"
    artifact.save_graph(qc.parse(text), python)
    assert qc.load(python).program.python_nodes
    assert not is_restored(qc.load(python)) and not list(tmp_path.glob("cache/*.qcb"))
    monkeypatch.setattr(block_cache, "MAX_BLOCK", 100)
    qc.load(saved)
    assert not is_restored(qc.load(saved)) and not list(folder.glob("*.qcb"))
    monkeypatch.setenv("QC_CACHE", "")
    assert not is_restored(qc.load(saved))


@pytest.mark.parametrize(
    "knob, value",
    [
        (knobs.DUMP, "dump"),
        (knobs.DEBUG, 1),
        (knobs.VERIFY, False),
        (knobs.STOP_AFTER, "assign-layout"),
        (knobs.PASS_LIMIT, 9),
        (knobs.POISON, True),
        (knobs.GUARD, True),
    ],
)
def test_knobs_that_watch_the_way_to_a_program_get_one_made(
    knob: knobs.Knob,
    value: object,
    saved: pathlib.Path,
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with knob(value):
        qc.load(saved)
    assert not list(folder.glob("*.qcb"))
    qc.load(saved)
    with knob(value):
        assert not is_restored(qc.load(saved))
    assert is_restored(qc.load(saved))


def test_the_interpreter_keeps_nothing(saved: pathlib.Path, folder: pathlib.Path) -> None:
    qc.load(saved, target="reference")
    assert not folder.exists()


@pytest.mark.parametrize("wrong, message", [({"threads": 0}, "threads"), ({"target": "x86-64+avx9"}, "avx9")])
def test_what_is_asked_for_is_checked_before_the_file_is_read(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        qc.load("no such file.qc.safetensors", **wrong)


# -- damage


def test_a_damaged_model_is_refused_however_warm_the_cache(saved: pathlib.Path, folder: pathlib.Path) -> None:
    qc.load(saved)
    assert is_restored(qc.load(saved))
    raw = bytearray(saved.read_bytes())
    raw[-100] ^= 1
    saved.unlink()
    saved.write_bytes(raw)
    with pytest.raises(ArtifactError, match="damaged"):
        qc.load(saved)


def test_a_model_saved_anew_is_another_one(
    saved: pathlib.Path, folder: pathlib.Path, model: qc.Graph, batches: list[np.ndarray]
) -> None:
    qc.load(saved)
    changed = qc.parse(str(model), qc_data(model, times=-1))
    artifact.save_graph(changed, saved)
    compiled = qc.load(saved)
    assert not is_restored(compiled)
    assert same(outputs(compiled, batches[0]), outputs(qc.compile(changed, target="reference"), batches[0]))


def qc_data(graph: qc.Graph, times: int) -> dict[str, np.ndarray]:
    from qcompiler.text.printer import graph_data

    return {
        name: array * np.array(times, array.dtype) if array.dtype == np.int8 else array
        for name, array in graph_data(graph).items()
    }


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flipped(raw: bytes) -> bytes:
    return raw[:777] + bytes([raw[777] ^ 16]) + raw[778:]


SPOILS = {"cut": cut, "flipped": flipped, "longer": lambda raw: raw + b"\0", "empty": lambda raw: b""}


@pytest.mark.parametrize("what", sorted(SPOILS))
@pytest.mark.parametrize("suffix", ["qcb", "qco"])
def test_spoilt_files_are_made_again(
    what: str,
    suffix: str,
    saved: pathlib.Path,
    folder: pathlib.Path,
    model: qc.Graph,
    batches: list[np.ndarray],
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = outputs(qc.compile(model, target="reference"), batches[0])
    qc.load(saved)
    for path in folder.glob(f"*.{suffix}"):
        path.write_bytes(SPOILS[what](path.read_bytes()))
    forget()
    compiled = qc.load(saved)
    assert not is_restored(compiled) and same(outputs(compiled, batches[0]), expected)
    assert all(record.levelno == logging.WARNING for record in caplog.records) and caplog.records
    forget()
    assert is_restored(qc.load(saved)) and same(outputs(qc.load(saved), batches[0]), expected)


def test_every_flipped_byte_of_a_block_is_seen(folder: pathlib.Path) -> None:
    data = np.arange(300, dtype=np.uint8)
    digests = block_cache.store(data)
    path = folder / block_cache.block_name(digests)
    for at in range(300):
        raw = bytearray(data.tobytes())
        raw[at] ^= 1 << at % 8
        path.write_bytes(raw)
        assert not block_cache.load(digests, np.empty(300, np.uint8)) and not path.exists()
    assert block_cache.store(data) == digests
    into = np.empty(300, np.uint8)
    assert block_cache.load(digests, into) and np.array_equal(into, data)
    assert not block_cache.load(digests, np.empty(299, np.uint8)) and not path.exists()


def test_blocks_of_several_parts(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "_PART", 1000)
    for nbytes in (0, 1, 999, 1000, 1001, 3500):
        data = RNG.integers(0, 256, nbytes, dtype=np.uint8)
        digests, into = block_cache.store(data), np.empty(nbytes, np.uint8)
        assert len(digests) == -(-nbytes // 1000) and block_cache.load(digests, into) and np.array_equal(into, data)
        assert not block_cache.load([*digests, "00"], into)


@pytest.mark.parametrize("gone", ["block", "kernels", "entry"])
def test_files_that_are_gone_are_made_again(gone: str, saved: pathlib.Path, folder: pathlib.Path) -> None:
    qc.load(saved)
    entry = folder / object_cache.entry_name(
        program_cache.entry_key(artifact.SavedModel(saved).digest, native_target())
    )
    assert entry.exists()
    for path in folder.iterdir():
        if {"block": path.suffix == ".qcb", "entry": path == entry, "kernels": path.suffix == ".qco" and path != entry}[
            gone
        ]:
            path.unlink()
    forget()
    emitted = sum(emitted_kernels.values())
    assert is_restored(qc.load(saved)) == (gone == "kernels")  # the program names them: they are emitted, not the rest
    assert (sum(emitted_kernels.values()) > emitted) == (gone == "kernels")
    forget()
    assert is_restored(qc.load(saved))


@pytest.mark.parametrize("what", ["link", "writable", "folder"])
def test_a_block_that_is_no_private_file(
    what: str, saved: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    qc.load(saved)
    [path] = folder.glob("*.qcb")
    raw = path.read_bytes()
    if what == "writable":
        path.chmod(0o666)
    else:
        path.unlink()
        (tmp_path / "moved").write_bytes(raw)
        path.symlink_to(tmp_path / "moved") if what == "link" else path.mkdir()
    assert not is_restored(qc.load(saved))


def test_the_blocks_that_were_not_used_for_longest_go(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [np.full(1000, number, np.uint8) for number in range(7)]
    digests = [block_cache.store(block) for block in blocks]
    for number, names in enumerate(digests):
        os.utime(folder / block_cache.block_name(names), (number + 1, number + 1))
    assert block_cache.load(digests[0], np.empty(1000, np.uint8))
    object_cache.store({"key": b"an object is not counted" * 999})
    monkeypatch.setattr(block_cache, "MAX_FOLDER", 6000)
    new = block_cache.store(np.full(1000, 9, np.uint8))
    assert [block_cache.load(names, np.empty(1000, np.uint8)) for names in [*digests, new]] == [True] + [False] * 5 + [
        True,
        True,
    ]
    assert object_cache.load(["key"])


def test_an_entry_is_plain_data(saved: pathlib.Path, folder: pathlib.Path) -> None:
    qc.load(saved)
    key = program_cache.entry_key(artifact.SavedModel(saved).digest, native_target())
    entry = json.loads(object_cache.load([key])[key])
    assert entry["signature"]["inputs"] == [["x", "f32[2,4,9,9]"]]
    assert str(folder) not in json.dumps(entry) and str(saved) not in json.dumps(entry)
