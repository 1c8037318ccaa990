"""Knobs: the values and errors of each, context managers, and what they do; docs and code know the same ones."""

from __future__ import annotations

import logging
import pathlib
import re
import subprocess
import sys
import threading

import pytest

from qcompiler import compiler, cpus, knobs
from qcompiler.errors import PassError, QCompilerError
from qcompiler.ir import Graph
from qcompiler.knobs import KNOBS, knobs_page
from qcompiler.notes import Remark
from qcompiler.passmanager import PassManager
from qcompiler.types import tensor
from tests.sample_graphs import CASES, sample_graph

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "knobs.md"

GOOD = [
    (knobs.DEBUG, "2", 2),
    (knobs.DUMP, "/x/y", pathlib.Path("/x/y")),
    (knobs.VERIFY, "0", False),
    (knobs.VERIFY, "Yes", True),
    (knobs.STOP_AFTER, "fuse", "fuse"),
    (knobs.PASS_LIMIT, " 0 ", 0),
    (knobs.ISA, "avx2", "avx2"),
    (knobs.THREADS, "8", 8),
    (knobs.SEED, "7", 7),
    (knobs.SPIN_US, "12.5", 12.5),
    (knobs.CACHE, "/x/y", "/x/y"),
    (knobs.POISON, "1", True),
    (knobs.GUARD, "off", False),
    (knobs.REQUIRE_ALL, "true", True),
]
BAD = [
    (knobs.DEBUG, "3"),
    (knobs.DEBUG, "-1"),
    (knobs.DEBUG, "on"),
    (knobs.VERIFY, "2"),
    (knobs.VERIFY, "maybe"),
    (knobs.PASS_LIMIT, "-1"),
    (knobs.PASS_LIMIT, "1.5"),
    (knobs.PASS_LIMIT, "٣"),
    (knobs.THREADS, "0"),
    (knobs.THREADS, "257"),
    (knobs.THREADS, "all"),
    (knobs.SEED, "-1"),
    (knobs.SEED, "9" * 5000),
    (knobs.SPIN_US, "nan"),
    (knobs.SPIN_US, "inf"),
    (knobs.SPIN_US, "-1"),
    (knobs.SPIN_US, "1000001"),
    (knobs.POISON, "x"),
    (knobs.GUARD, "-"),
]


@pytest.mark.parametrize("knob, text, value", GOOD, ids=[f"{knob.name}={text}" for knob, text, _ in GOOD])
def test_values(monkeypatch, knob, text, value):
    monkeypatch.delenv(knob.name, raising=False)
    default = knob.get()
    assert default == knob.default
    monkeypatch.setenv(knob.name, text)
    assert knob.get() == value and type(knob.get()) is type(value)
    monkeypatch.setenv(knob.name, "  ")
    assert knob.get() == (default if knob.blank is None else knob.blank)
    monkeypatch.delenv(knob.name)
    with knob(value):
        assert knob.get() == value
    with knob(text):
        assert knob.get() == value
    assert knob.get() == default


@pytest.mark.parametrize("knob, text", BAD, ids=[f"{knob.name}={text[:20]}" for knob, text in BAD])
def test_bad_values_name_the_variable(monkeypatch, knob, text):
    monkeypatch.setenv(knob.name, text)
    with pytest.raises(QCompilerError) as caught:
        knob.get()
    assert knob.name in caught.value.message and caught.value.expected == knob.kind and len(str(caught.value)) < 400
    monkeypatch.delenv(knob.name)
    with pytest.raises(QCompilerError, match=knob.name), knob(text):
        pass
    assert knob.get() == knob.default


def test_an_empty_cache_folder_is_not_the_default_one(monkeypatch):
    monkeypatch.setenv("QC_CACHE", "")
    assert knobs.CACHE.get() == ""
    with knobs.CACHE(None):
        assert knobs.CACHE.get() is None
    monkeypatch.delenv("QC_CACHE")
    with knobs.CACHE(""):
        assert knobs.CACHE.get() == ""
    assert knobs.CACHE.get() is None


def test_every_knob_has_a_good_value_here():
    assert {knob.name for knob, _, _ in GOOD} == {knob.name for knob in KNOBS}


def test_context_managers_nest_and_undo_after_errors(monkeypatch):
    monkeypatch.setenv("QC_PASS_LIMIT", "9")
    with knobs.PASS_LIMIT(3):
        with pytest.raises(ZeroDivisionError), knobs.PASS_LIMIT(4):
            assert knobs.PASS_LIMIT.get() == 4
            _ = 1 / 0
        assert knobs.PASS_LIMIT.get() == 3
        with knobs.PASS_LIMIT(None):
            assert knobs.PASS_LIMIT.get() is None
    assert knobs.PASS_LIMIT.get() == 9


def test_other_threads_see_the_value():
    seen = []
    with knobs.DEBUG(1):
        thread = threading.Thread(target=lambda: seen.append(knobs.DEBUG.get()))
        thread.start()
        thread.join()
    assert seen == [1]


# -- what they do


class Rename:
    """A pass whose effect is easy to see."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, graph: Graph) -> Graph:
        graph.notes.append(Remark(self.name))
        return graph


class Break(Rename):
    def run(self, graph: Graph) -> Graph:
        graph.set_type(graph.node_list[-1].results[0], tensor("f32", 99))
        return graph


@pytest.fixture
def describable(monkeypatch):
    monkeypatch.setattr("qcompiler.passmanager.describe", lambda item: item.name)


@pytest.mark.parametrize(
    "stop, limit, expected",
    [
        (None, None, ["a", "b", "c"]),
        ("b", None, ["a", "b"]),
        (None, 1, ["a"]),
        ("c", 2, ["a", "b"]),
        ("fuse", None, ["a", "b", "c"]),
        (None, 0, []),
    ],
)
def test_where_pipelines_end(describable, stop, limit, expected):
    manager = PassManager([Rename("a"), Rename("b"), Rename("c")])
    with knobs.STOP_AFTER(stop), knobs.PASS_LIMIT(limit):
        assert manager.run(sample_graph(*CASES[20])).notes == list(map(Remark, expected))


@pytest.mark.parametrize("name, close", [("fuze", "fuse"), ("insert_qdq", "insert-qdq"), ("nothing", "known")])
def test_a_pipeline_ends_after_no_unknown_pass(describable, name, close):
    with knobs.STOP_AFTER(name), pytest.raises(PassError, match=f"QC_STOP_AFTER(.|\n)*{close}"):
        PassManager([Rename("a")]).run(sample_graph(*CASES[20]))


def test_verify(describable):
    manager = PassManager([Rename("a"), Break("b")])
    with pytest.raises(PassError, match="broken after pass 1 b"):
        manager.run(sample_graph(*CASES[20]))
    with knobs.VERIFY(False):
        manager.run(sample_graph(*CASES[20]))


def test_dump(tmp_path, describable):
    folder = tmp_path / "deep" / "dump"
    with knobs.DUMP(folder):
        PassManager([Rename("a"), Rename("b")]).run(sample_graph(*CASES[20]))
        PassManager([Rename("c")]).run(sample_graph(*CASES[20]))
    assert sorted(path.name for path in folder.glob("*.qir")) == ["00_a.qir", "01_b.qir", "02_c.qir"]
    assert len(list(folder.glob("*.svg*"))) == 3
    assert 'note "b"' in (folder / "01_b.qir").read_text()


def test_a_dump_that_cannot_be_written(tmp_path, describable):
    (tmp_path / "file").write_text("")
    with knobs.DUMP(tmp_path / "file"), pytest.raises(QCompilerError, match="dump cannot be written"):
        PassManager([Rename("a")]).run(sample_graph(*CASES[20]))


def test_debug_logs_passes_and_texts(caplog, describable):
    with caplog.at_level(logging.INFO, "qcompiler.passmanager"):
        PassManager([Rename("a")]).run(sample_graph(*CASES[20]))
        assert caplog.text == ""
        with knobs.DEBUG(1):
            PassManager([Rename("a")]).run(sample_graph(*CASES[20]))
        assert "pass 0 a: 1 nodes" in caplog.text and "graph" not in caplog.text
        with knobs.DEBUG(2):
            PassManager([Rename("a")]).run(sample_graph(*CASES[20]))
        assert "stage=float" in caplog.text


def test_threads(demo_stages, monkeypatch):
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 4)
    with knobs.THREADS(3):
        assert compiler.compile(demo_stages["integer"], target="reference").threads == 3
        assert compiler.compile(demo_stages["integer"], target="reference", threads=2).threads == 2
        assert compiler.compile(demo_stages["integer"], target="reference", threads=5).threads == 4
    assert compiler.compile(demo_stages["integer"], target="reference").threads == 4


# -- one table


def test_the_page_is_current(request):
    if request.config.getoption("--update-golden"):
        PAGE.write_text(knobs_page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == knobs_page(), "python -m qcompiler.knobs > docs/knobs.md"


def test_the_module_prints_the_page():
    done = subprocess.run(
        [sys.executable, "-m", "qcompiler.knobs"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.stdout == knobs_page()


def sources() -> list[pathlib.Path]:
    found = [
        path
        for folder in ("qcompiler", "frontend", "passes", "backends", "examples", "benchmarks", ".ci")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", "") and path.is_file()
    ]
    return [*found, ROOT / "Makefile"]


def test_every_variable_in_the_code_is_in_the_table():
    named = {name for path in sources() for name in re.findall(r"\bQC_[A-Z][A-Z_]*", path.read_text(encoding="utf-8"))}
    assert named == {knob.name for knob in KNOBS}


def test_the_environment_is_read_in_one_place():
    pattern = re.compile(r"""(environ|getenv)\b.{0,8}["']QC_""")
    found = [path for path in sources() if path.suffix == ".py" and pattern.search(path.read_text(encoding="utf-8"))]
    assert found == []
