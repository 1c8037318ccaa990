"""Every option of every command is honoured, or refused where the command has no use for it. A new option fails here
until it has a row."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.artifact import load_graph
from qcompiler.cli import arguments as cli
from tests.cli.commands import REFERENCE, call, fail

ONE = ("--size", "B=1")
FLOAT, INT8 = "float.qc.safetensors", "int8.qc.safetensors"
DATA = ("--data", "x.npz")
PYTHON = ("small_model:model", "--python", "--type", "f32[B,4]")
Said = Callable[..., str]


def text_of(say: Said, *arguments: str) -> str:
    """The graph that a command saves."""
    say(*arguments, "-o", "out.qc.safetensors")
    graph = load_graph("out.qc.safetensors")
    return str(graph) + "".join(str(const.data.tolist()) for const in graph.consts.values())


def quantized(say: Said, *more: str) -> str:
    return text_of(say, "quantize", FLOAT, *DATA, *REFERENCE, *more)


def figures(say: Said, *arguments: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(say(*arguments, "--json"))
    return found


def calls(say: Said, *more: str) -> object:
    return figures(say, "compare", FLOAT, FLOAT, *DATA, *REFERENCE, *more)["calls"]


def written(say: Said, *arguments: str, to: str) -> bytes:
    say(*arguments, "-o", to)
    with open(to, "rb") as file:
        return file.read()


def is_json(said: str) -> bool:
    return said.lstrip().startswith("{")


def bench(say: Said, *more: str) -> dict[str, object]:
    return figures(say, "bench", *PYTHON, "--seconds", "0", *more)


def exported(say: Said, *more: str) -> bytes:
    arguments = ("export", INT8, "--to", "object", "--target", "x86-64-linux+avx2", *(more or ONE))
    return written(say, *arguments, to="m.o") + open("m.h", "rb").read()


EFFECTS: dict[str, Callable[[Said], tuple[object, object]]] = {
    "check --python": lambda s: (s("check", *PYTHON), fail_of(s, "check", PYTHON[0], *PYTHON[2:])),
    "check --type": lambda s: (s("check", *PYTHON), s("check", *PYTHON[:3], "f32[3,4]")),
    "check --imports": lambda s: (fail_of(s, "check", FLOAT, "--import", "none.py"), s("check", FLOAT)),
    "check --qconfig": lambda s: (s("check", FLOAT, "--qconfig", "int8:kl"), s("check", FLOAT)),
    "check --json": lambda s: (is_json(s("check", FLOAT, "--json")), is_json(s("check", FLOAT))),
    "quantize --qconfig": lambda s: (quantized(s, "--qconfig", "torch:qnnpack"), quantized(s)),
    "quantize --data": lambda s: (text_of(s, "quantize", FLOAT, "--data", "small.npz", *REFERENCE), quantized(s)),
    "quantize --json": lambda s: (is_json(s("quantize", FLOAT, *DATA, "-o", "o.qc.safetensors", "--json")), False),
    "run --input": lambda s: (s("run", FLOAT, "--input", "x.npz"), s("run", FLOAT, "--input", "small.npz")),
    "run --output": lambda s: (
        written(s, "run", FLOAT, "--input", "x.npz", to="y.npz"),
        written(s, "run", FLOAT, "--input", "small.npz", to="y.npz"),
    ),
    "run --json": lambda s: (is_json(s("run", FLOAT, "--input", "x.npz", "--json")), False),
    "bench --target": lambda s: (bench(s, "--target", "reference")["target"], bench(s)["target"]),
    "bench --threads": lambda s: (bench(s, "--threads", "1")["threads"], 0),
    "bench --size": lambda s: ("B" in fail_of(s, "bench", *PYTHON, "--size", "C=1"), False),
    "bench --profile": lambda s: ("steps" in bench(s, "--profile"), "steps" in bench(s)),
    "compare --batch": lambda s: (calls(s, "--batch", "2"), calls(s)),
    "dump --stage": lambda s: (s("dump", FLOAT, "--stage", "observed"), s("dump", FLOAT)),
    "dump --qconfig": lambda s: (
        s("dump", FLOAT, "--stage", "observed", "--qconfig", "int8:kl"),
        s("dump", FLOAT, "--stage", "observed"),
    ),
    "dump --target": lambda s: (
        s("dump", INT8, "--stage", "lowered"),
        fail_of(s, "dump", INT8, "--stage", "lowered", "--target", "reference"),
    ),
    "passes --data": lambda s: (s("passes", FLOAT, *DATA), s("passes", FLOAT)),
    "passes --texts": lambda s: ("== dce" in s("passes", FLOAT, "--texts"), "== dce" in s("passes", FLOAT)),
    "export --target": lambda s: (exported(s, *ONE, "--target", "aarch64-linux+neon"), exported(s)),
    "export --prefix": lambda s: (exported(s, *ONE, "--prefix", "other"), exported(s)),
    "export --io": lambda s: (exported(s, *ONE, "--io", "quantized"), exported(s)),
    "export --size": lambda s: (exported(s, "--size", "B=2"), exported(s)),
}
SHARED_EFFECT = {
    "python",
    "type",
    "imports",
    "qconfig",
    "json",
    "data",
    "batch",
    "stage",
    "target",
    "threads",
    "output",
}
"""Options that mean the same for several commands; the effect is shown for some, and that the others read them by
`test_options_of_a_command_are_read`."""


def fail_of(say: Said, *arguments: str) -> str:
    return say(*arguments, code=1)


@pytest.fixture
def say(files, capsys) -> Said:
    np.savez("small.npz", x=np.random.default_rng(1).uniform(0, 0.01, (4, 1, 28, 28)).astype(np.float32))
    return lambda *arguments, code=0: call(capsys, *arguments) if code == 0 else fail(capsys, *arguments)


@pytest.mark.parametrize("name", EFFECTS)
def test_an_option_has_an_effect(name: str, say: Said) -> None:
    with_it, without = EFFECTS[name](say)
    assert with_it != without


def commands() -> dict[str, argparse.ArgumentParser]:
    actions = cli.make_parser()._subparsers._group_actions  # type: ignore[union-attr]
    return dict(actions[0].choices)  # type: ignore[arg-type]


def test_every_option_has_a_row() -> None:
    for command, parser in commands().items():
        for action in parser._actions:
            if not action.option_strings or action.dest == "help":
                continue
            row = f"{command} --{action.dest}"
            shared = action.dest in SHARED_EFFECT and any(name.endswith(f" --{action.dest}") for name in EFFECTS)
            assert row in EFFECTS or shared or row in READ, row


READ = {
    "quantize --output",
    "quantize --scales",
    "scales --output",
    "scales --data",
    "bench --input",
    "bench --seconds",
    "export --to",
    "export --check",
    "compare --data",
}
"""Options whose effect other tests of the command line show."""

USES: dict[str, list[tuple[str, ...]]] = {
    "check": [("check", *PYTHON, "--qconfig", "int8")],
    "quantize": [("quantize", FLOAT, *DATA, "--batch", "4", "--threads", "1", "--json", "-o", "o.qc.safetensors")],
    "run": [("run", FLOAT, "--input", "x.npz", "--threads", "1", "--target", "reference", "--json", "-o", "y.npz")],
    "bench": [("bench", FLOAT, "--input", "x.npz", "--threads", "1", "--seconds", "0", "--profile", "--json")],
    "compare": [("compare", FLOAT, INT8, *DATA, "--batch", "4", "--threads", "1", *REFERENCE, "--json")],
    "dump": [("dump", FLOAT, "--stage", "lowered", *DATA, "--batch", "4", "--qconfig", "int8", "--target", "native")],
    "draw": [("draw", FLOAT, "--stage", "lowered", *DATA, "--batch", "4", "--target", "native", "-o", "g.dot")],
    "passes": [("passes", FLOAT, *DATA, "--batch", "4", "--qconfig", "int8", "--json")],
    "scales": [
        ("scales", FLOAT, *DATA, "--batch", "4", "--threads", "1", "--qconfig", "int8", "--json", "-o", "a.scales")
    ],
    "targets": [("targets", "--json")],
}


@pytest.mark.parametrize("command", USES)
def test_options_of_a_command_are_read(command: str, say: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option that is given is looked up by the command."""
    looked: set[str] = set()

    class Recording(argparse.Namespace):
        def __getattribute__(self, name: str) -> object:
            looked.add(name)
            return super().__getattribute__(name)

    parse = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda self, args: Recording(**vars(parse(self, args))))
    for arguments in USES[command]:
        looked.clear()
        say(*arguments)
        given = {text.removeprefix("--").replace("-o", "output") for text in arguments if text.startswith("-")}
        assert given <= looked, given - looked


def test_threads_of_quantize_reach_calibration(say: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcompiler import compiler

    seen: list[object] = []
    calibrate = compiler.calibrate
    monkeypatch.setattr(
        compiler, "calibrate", lambda *args, **more: (seen.append(more["threads"]), calibrate(*args, **more))[1]
    )
    quantized(say, "--threads", "1")
    assert seen == [1]


WITHOUT_USE = [
    (("check", FLOAT, "--python"), "--python is for Python models"),
    (("check", FLOAT, "--type", "f32[2]"), "--type is for Python models"),
    (("compare", FLOAT, INT8, *DATA, "--type", "f32[2]"), "--type is for Python models"),
    (("check", INT8, "--qconfig", "int8"), "--qconfig has no effect"),
    (("quantize", INT8, *DATA, "-o", "o.qc.safetensors"), "quantized already"),
    (("quantize", FLOAT, *DATA, "--scales", "a", "-o", "o.qc.safetensors"), "--data has no effect"),
    (("quantize", FLOAT, "--scales", "a", "--qconfig", "dynamic", "-o", "o.qc.safetensors"), "--scales has no effect"),
    (("quantize", FLOAT, "--scales", "a", "--qconfig", "keep", "-o", "o.qc.safetensors"), "--scales has no effect"),
    (("passes", FLOAT, "--batch", "4"), "--batch has no effect"),
    (("dump", FLOAT, "--qconfig", "int8"), "--qconfig has no effect"),
    (("dump", FLOAT, *DATA), "--data has no effect"),
    (("dump", FLOAT, "--batch", "2"), "--batch has no effect"),
    (("dump", FLOAT, "--target", "native"), "--target has no effect"),
    (("dump", FLOAT, "--stage", "observed", "--target", "native"), "--target has no effect"),
    (("dump", FLOAT, "--stage", "observed", *DATA), "--data has no effect"),
    (("dump", FLOAT, "--stage", "observed", "--batch", "2"), "--batch has no effect"),
    (("dump", INT8, "--stage", "lowered", *DATA), "--data has no effect"),
    (("dump", FLOAT, "--stage", "lowered", "--qconfig", "int8"), "--qconfig has no effect"),
    (("draw", FLOAT, "--qconfig", "int8", "-o", "g.dot"), "--qconfig has no effect"),
    (("bench", *PYTHON, "--input", "x.npz", "--size", "B=1"), "--size is for random inputs"),
    (("export", FLOAT, "--to", "text", "--prefix", "p", "-o", "g.qir"), "--prefix is for objects"),
]


@pytest.mark.parametrize(
    "arguments,text", WITHOUT_USE, ids=lambda item: item if isinstance(item, str) else " ".join(item)
)
def test_an_option_without_a_use_is_refused(arguments: tuple[str, ...], text: str, say: Said) -> None:
    assert text in say(*arguments, code=1)
