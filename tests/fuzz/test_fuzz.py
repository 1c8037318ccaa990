"""The fuzzer: it notices every kind of finding, and a sample of each door and all inputs of past findings give none."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from qcompiler.errors import ArtifactError, QCompilerError, TraceError
from tests.fuzz import worker as worker_module
from tests.fuzz.__main__ import fuzz
from tests.fuzz.damage import Chance, damaged
from tests.fuzz.door import HOMES, open_door
from tests.fuzz.minimize import minimized, shorter_bytes
from tests.fuzz.worker import Verdict, Worker, judge

SEEDS = Path(__file__).with_name("seeds")
PAST = sorted(path for path in SEEDS.rglob("*") if path.is_file())
SAMPLE = {
    "onnx-structure": 150,
    "onnx-bytes": 150,
    "text": 250,
    "artifact": 150,
    "calibration": 150,
    "data": 200,
    "ops-onnx": 60,
    "ops-numpy": 150,
    "ops-torch": 100,
    "qdq": 40,
    "networks": 6,
}
"""Door -> inputs in `make test`: about two seconds each."""
LEGAL = ("ops-onnx", "ops-numpy", "ops-torch", "networks")
"""Doors of legal inputs. The more ops there are, the fewer of these are refused."""


@pytest.mark.parametrize("name", HOMES)
def test_a_sample_of_a_door(name: str) -> None:
    ends: Counter[str] = Counter()
    with Worker(name) as worker:
        for seed, verdict in enumerate(worker.judge_all(range(SAMPLE[name]))):
            assert verdict.ended != "finding", f"seed {seed}: {verdict.kind} {verdict.text}"
            ends[verdict.ended] += 1
    accepted = ends.total() - ends["refused"]
    assert accepted >= SAMPLE[name] / 50, f"nearly all are refused: {ends}"
    assert ends["refused"] >= SAMPLE[name] / 50 or name in LEGAL, f"nearly none is refused: {ends}"


@pytest.mark.parametrize("door", sorted({path.parent.name for path in PAST}))
def test_past_findings(door: str) -> None:
    with Worker(door) as worker:
        for path in PAST:
            if path.parent.name == door:
                verdict = worker.judge(path.read_bytes())
                assert verdict.ended != "finding", f"{path}: {verdict.kind} {verdict.text}"


def test_a_seed_gives_the_same_input_again() -> None:
    for name in HOMES:
        one, other = open_door(name), open_door(name)
        drawn = [one.draw(seed) for seed in range(8)]
        assert drawn == [other.draw(seed) for seed in range(8)] and len(set(drawn)) > 4, name


# -- what counts as a finding


class Odd:
    """A door whose inputs say what happens."""

    suffix = ".txt"

    def draw(self, seed: int) -> bytes:
        return f"seed {seed}".encode()

    def run(self, data: bytes) -> str:
        text = data.decode()
        if "loop" in text:
            while True:
                pass
        if "memory" in text:
            return f"{len(np.ones(300 * 2**20, np.int8))} bytes"
        if "exits" in text:
            raise SystemExit(3)
        if "raw" in text:
            raise KeyError("raw")
        if "wrong" in text:
            raise AssertionError("an answer is wrong: 17")
        if "refused" in text:
            raise ArtifactError("refused")
        if "unclear" in text:
            raise ArtifactError("x" * 20_000)
        if "other class" in text:
            raise TraceError("refused")
        return "fine"

    def is_clear(self, error: QCompilerError) -> bool:
        return isinstance(error, ArtifactError)

    def smaller(self, data: bytes) -> Iterator[bytes]:
        return shorter_bytes(data)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Odd:
    monkeypatch.setitem(HOMES, "odd", "test_fuzz:Odd")
    return Odd()


KINDS = {
    "loop": "hang",
    "memory": "memory",
    "exits": "SystemExit",
    "raw": "KeyError",
    "wrong": "AssertionError",
    "unclear": "unclear message",
    "other class": "refused by TraceError",
}


@pytest.mark.parametrize("text", KINDS)
def test_findings_in_one_process(odd: Odd, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if text == "loop":
        monkeypatch.setattr(worker_module, "SECONDS", 0.2)
    verdict = judge(odd, text.encode())
    assert (verdict.ended, verdict.kind, verdict.data) == ("finding", KINDS[text], text.encode())
    assert judge(odd, b"fine").ended == "fine" and judge(odd, b"refused").ended == "refused"


def test_a_worker_that_dies_or_does_not_answer_is_replaced(odd: Odd) -> None:
    with Worker("text") as worker:
        worker.judge(0)
        assert worker._process is not None and worker._process.pid is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        assert [verdict.kind for verdict in worker.judge_all(range(3))] == ["crash", "", ""]
        os.kill(worker._process.pid, signal.SIGSTOP)
        worker.patience = 0.5
        assert worker.judge(2).kind == "hang"
        worker.patience = 120
        assert worker.judge(2).ended != "finding"


def test_findings_are_made_smaller(odd: Odd) -> None:
    class Here:
        def judge(self, given: int | bytes) -> Verdict:
            return judge(odd, given)

    data = b"some text " * 20 + b"raw" + b" and more" * 30
    found = minimized(judge(odd, data), odd, Here(), seconds=20)  # type: ignore[arg-type]
    assert found.data == b"raw" and found.kind == "KeyError"


def test_findings_are_written_once_for_each_place(
    odd: Odd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = itertools.cycle([b"fine", b"a raw one", b"refused", b"wrong, this", b"raw too"])
    monkeypatch.setattr(Odd, "draw", lambda self, seed: next(texts))

    class Here(Worker):
        def judge_all(self, inputs: Sequence[int | bytes]) -> list[Verdict]:
            return [judge(odd, given) for given in inputs]

    monkeypatch.setattr("tests.fuzz.__main__.Worker", Here)
    monkeypatch.setattr("tests.fuzz.__main__.open_door", lambda name: odd)
    assert fuzz("odd", 0, 10, 0, tmp_path) == 2
    assert sorted(path.read_bytes() for path in tmp_path.glob("odd-*.txt") if b"python" not in path.read_bytes()) == []
    told = capsys.readouterr().out
    assert "10 inputs" in told and "6 finding" in told and "2 different findings" in told


def test_damage_is_of_every_size() -> None:
    chance, data = Chance(np.random.default_rng(0)), bytes(range(256))
    made = [damaged(data, chance) for _ in range(200)]
    assert len(set(made)) > 150 and min(map(len, made)) < 50 and max(map(len, made)) > 300
    assert all(isinstance(damaged(b"", chance), bytes) for _ in range(20))
