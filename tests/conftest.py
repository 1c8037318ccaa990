"""Fixtures for all tests: golden files, and the demo's graph at each stage.

`pytest --update-golden` writes what the tests produce over tests/golden; read the diff before committing it. Tests that
are exhaustive and slow are marked: `make test` leaves them out, `make test-all` runs about a quarter of them, and
`make test-every` the rest.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.ir import Graph

TESTS = pathlib.Path(__file__).resolve().parent


os.environ["QC_CACHE"] = ""
"""No test reads or writes the user's cache of compiled kernels. Child processes see this too."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the texts that tests produce to tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "sampled(n): one case in n runs in `make test`, a quarter of the others in `test-all`"
    )
    config.addinivalue_line("markers", "exhaustive: does not run in `make test`")
    config.addinivalue_line("markers", "every: runs in `make test-every` only; `exhaustive` too")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but one case in n of a test that is marked `sampled` as `exhaustive`, which `make test` leaves out, and
    three quarters of these as `every`, which `make test-all` leaves out too. A case's name decides, so that every
    machine runs the same cases."""
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is None:
            continue
        others, place = divmod(zlib.crc32(item.name.encode()), mark.args[0])
        if place:
            item.add_marker(pytest.mark.exhaustive)
            if others % 4:
                item.add_marker(pytest.mark.every)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function: `golden(text, suffix)` compares with tests/golden/<folder>/<file>/<test>.<suffix>, by default .txt.

    The file of a test that is parametrized by one string has that string as its name: test_stage[fused] of
    tests/test_demo_stages.py has golden/demo_stages/fused.qir.
    """

    def check(text: str, suffix: str = "txt") -> None:
        function, _, case = request.node.name.removeprefix("test_").partition("[")
        name = (case.removesuffix("]") or function).replace("/", "_")
        folder = request.path.parent.relative_to(TESTS) / request.path.stem.removeprefix("test_")
        path = TESTS / "golden" / folder / f"{name}.{suffix}"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"{path.relative_to(TESTS)} is missing: run with --update-golden"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def demo_stages() -> dict[str, Graph]:
    """The demo's network with trained weights, calibrated on 4 images: stage -> graph, as the real pipelines leave
    it."""
    from qcompiler import compiler
    from tests.demo import load_split, preprocess, trained_model

    images = preprocess(load_split("calib")[0][:4])
    traced = compiler.trace(trained_model(), (images[:1],), dynamic={"x": {0: "B"}})
    prepared = compiler.prepare(traced, "int8")
    after: dict[str, Graph] = {}

    class Keep:
        def after(self, index: int, step: object, before: Graph, graph: Graph, seconds: float) -> None:
            after[graph.stage] = graph.clone()

    integer = compiler.convert(prepared, compiler.calibrate(prepared, [images]), instruments=[Keep()])
    return {
        "float": traced,
        "fused": compiler.fuse(traced),
        "observed": prepared.graph,
        "qdq": after["qdq"],
        "integer": integer,
    }


@pytest.fixture(scope="session")
def demo_images() -> np.ndarray:
    """Inputs f32[4,1,28,28] for `demo_stages`, the same at every call."""
    return np.random.default_rng(7).uniform(-1, 2, (4, 1, 28, 28)).astype(np.float32)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of what packages are built from, with links as links."""
    folder, root = tmp_path_factory.mktemp("source"), TESTS.parent
    for name in ("qcompiler", "frontend", "passes", "backends"):
        shutil.copytree(root / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, folder)
    return folder


@pytest.fixture(scope="session")
def wheel(source: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel that `pip install .` builds."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    [path] = folder.glob("qcompiler_ir-*.whl")
    return path


_kernels: Counter[tuple[str, str]] = Counter()
"""(level, how) -> how many kernels ran, summed over the processes."""
_skipped: list[str] = []


def _ran_here() -> Counter[tuple[str, str]]:
    """How many kernels this process compiled (for this CPU or an emulator) or interpreted."""
    from qcompiler.backends.target import known_targets, parse_target

    found: Counter[tuple[str, str]] = Counter()
    if jit := sys.modules.get("qcompiler.backends.codegen.jit"):
        targets = [parse_target(name) for name in known_targets()]
        how = {target.level: target.execution() for target in targets}
        found.update({(level, how[level]): count for level, count in jit.emitted_kernels.items()})
    if levels := sys.modules.get("tests.backends.levels"):
        found.update({(level, "interpreted"): count for level, count in levels.interpreted_kernels.items()})
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the number of kernels that ran in this process to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["kernels"] = [(*key, count) for key, count in _ran_here().items()]
    else:
        _kernels.update(_ran_here())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Add the kernels of a worker of pytest-xdist that has ended."""
    for level, how, count in getattr(node, "workeroutput", {}).get("kernels", ()):
        _kernels[level, how] += count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Remember what was skipped, and why."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append(reason.removeprefix("Skipped: "))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the last lines: what did not run and why, and for each level how many kernels ran, and how."""
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    for reason in sorted(set(_skipped)):
        print(f"not run: {_skipped.count(reason)} tests: {reason}")
    from qcompiler.backends.availability import availability
    from qcompiler.backends.target import known_targets, parse_target

    print("kernels that ran, by level:")
    for name in known_targets():
        target = parse_target(name)
        counts = [
            f"{_kernels[target.level, how]} {how}"
            for how in ("native", "emulated", "interpreted")
            if _kernels[target.level, how]
        ]
        print(f"  {name}: {', '.join(counts) or 'none'} ({availability(target)})")
