"""The AArch64 target: names, levels, what this CPU has according to the system, QC_ISA, and what to install where the
emulator is missing."""

from __future__ import annotations

import pathlib
import subprocess
import types
from collections.abc import Iterator

import pytest

from qcompiler.backends import host
from qcompiler.backends import target as targets
from qcompiler.backends.arm import target as arm
from qcompiler.backends.arm.instructions import INSTRUCTIONS
from qcompiler.backends.codegen.jit import compile_kernels, emit_object
from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.target import parse_target
from qcompiler.errors import LoweringError, QCompilerError
from tests.backends.signatures import Y

LEVELS = tuple(arm.LEVELS)
CPUINFO = """\
processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes {features}
CPU implementer\t: 0x41

processor\t: 1
Features\t: fp asimd evtstrm aes {features}
"""
foreign = pytest.mark.skipif(
    host.arch() == "aarch64" or host.system() != "linux", reason="AArch64 is emulated on Linux of another architecture"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test change what the host is, and forgets what was found out about it."""
    monkeypatch.delenv("QC_ISA", raising=False)
    arm.cpu_features.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    arm.cpu_features.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """Pretend that the host is AArch64."""
    monkeypatch.setattr(host.platform, "machine", lambda: "arm64" if system == "macos" else "aarch64")
    monkeypatch.setattr(host, "system", lambda: system)


def linux(monkeypatch: pytest.MonkeyPatch, features: str) -> None:
    """Pretend to be an AArch64 host whose /proc/cpuinfo names these features."""
    pretend(monkeypatch, "linux")
    read = pathlib.Path.read_text
    text = CPUINFO.format(features=features)
    monkeypatch.setattr(
        pathlib.Path, "read_text", lambda self, *a, **k: text if str(self) == "/proc/cpuinfo" else read(self, *a, **k)
    )


def macos(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> None:
    """Pretend to be a Mac whose sysctl gives these answers, and fails for other names."""
    pretend(monkeypatch, "macos")

    def sysctl(command: list[str], **options: object) -> types.SimpleNamespace:
        assert command[:2] == ["sysctl", "-n"]
        known = command[2] in answers
        return types.SimpleNamespace(
            stdout=answers.get(command[2], "") + "\n" if known else "", returncode=0 if known else 1
        )

    monkeypatch.setattr(subprocess, "run", sysctl)


# -- names and features


def test_names() -> None:
    assert LEVELS == ("neon", "dotprod", "i8mm")
    for rank, level in enumerate(LEVELS):
        target = parse_target(f"aarch64-linux+{level}", exact=True)
        assert (target.arch, target.os, target.level) == ("aarch64", "linux", level)
        assert target.features == set(LEVELS[: rank + 1])
        assert [target.has(each) for each in LEVELS] == [index <= rank for index in range(3)]
        assert target == parse_target(f"aarch64-linux+{level}") and target.triple == "aarch64-unknown-linux-gnu"
        assert (target.vector_bytes, target.f32_lanes, target.register_count) == (16, 4, 32)
    assert len({parse_target(f"aarch64-linux+{level}").key for level in LEVELS}) == 3
    assert parse_target("aarch64-macos+dotprod").triple == "arm64-apple-macosx11.0.0"
    assert not parse_target("aarch64-windows+neon").can_run()


@pytest.mark.parametrize("level", LEVELS)
def test_llvm_may_use_the_levels_features_only(level: str) -> None:
    words = parse_target(f"aarch64-linux+{level}").llvm_features.split(",")
    rank = LEVELS.index(level)
    assert {f"+{each}" for each in LEVELS[: rank + 1]} <= set(words)
    assert {f"-{each}" for each in (*LEVELS[rank + 1 :], "sve", "sve2")} <= set(words)
    assert len(words) == len({word[1:] for word in words})


def test_each_instruction_belongs_to_a_level() -> None:
    assert {each.feature for each in INSTRUCTIONS.values()} == set(LEVELS)
    assert all(name.startswith("arm.") and each.doc for name, each in INSTRUCTIONS.items())


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("aarch64+dotprodd", "did you mean 'aarch64+dotprod'"),
        ("aarch64+i8m", "did you mean 'aarch64+i8mm'"),
        ("aarch65+neon", "did you mean 'aarch64+neon'"),
        ("arm64+neon", "did you mean 'aarch64+neon'"),
    ],
)
def test_unknown_names(text: str, hint: str) -> None:
    with pytest.raises(LoweringError, match=hint.replace("+", r"\+")):
        parse_target(text)


def test_a_kernel_with_an_instruction_beyond_its_level_is_refused() -> None:
    """If the verifier let it pass, LLVM would end the process."""

    @kernel
    def dots(b: KernelBuilder, a: Y) -> None:
        i32x4 = b.target.instruction("arm.sdot").operands
        b.store(b.instr("arm.sdot", *(b.zero(type) for type in i32x4)), a.y)

    assert emit_object([dots.build(parse_target("aarch64-linux+dotprod"))])[:4] == b"\x7fELF"
    with pytest.raises(QCompilerError, match="arm.sdot"):
        emit_object([dots.build(parse_target("aarch64-linux+neon"))])


# -- what the CPU has


@pytest.mark.parametrize(
    ("features", "level"),
    [("", "neon"), ("asimddp", "dotprod"), ("asimdhp asimddp sve i8mm bf16", "i8mm"), ("asimddpx svei8mm", "neon")],
)
def test_levels_by_cpuinfo(features: str, level: str, machine: pytest.MonkeyPatch) -> None:
    linux(machine, features)
    assert arm.cpu_features() == set(LEVELS[: LEVELS.index(level) + 1])
    assert targets.host_level() == level
    native = parse_target("native")
    assert native.name == f"aarch64+{level}" and native.execution() == "native"
    for each in LEVELS:
        target = parse_target(f"aarch64+{each}")
        assert target.execution() == ("native" if LEVELS.index(each) <= LEVELS.index(level) else "none")


@pytest.mark.parametrize(
    ("answers", "level"),
    [
        ({}, "neon"),
        ({"hw.optional.arm.FEAT_DotProd": "1"}, "dotprod"),
        ({"hw.optional.arm.FEAT_DotProd": "1", "hw.optional.arm.FEAT_I8MM": "0"}, "dotprod"),
        ({"hw.optional.arm.FEAT_DotProd": "1", "hw.optional.arm.FEAT_I8MM": "1"}, "i8mm"),
    ],
)
def test_levels_by_sysctl(answers: dict[str, str], level: str, machine: pytest.MonkeyPatch) -> None:
    macos(machine, answers)
    assert targets.host_level() == level
    native = parse_target("native")
    assert native.name == f"aarch64+{level}" and native.triple.startswith("arm64-apple-macosx")
    assert native.execution() == "native" and parse_target(f"aarch64-linux+{level}").execution() == "none"


def test_another_architecture_has_none_of_it(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(host.platform, "machine", lambda: "x86_64")
    assert arm.cpu_features() == frozenset()


def test_qc_isa_pretends_a_weaker_cpu(machine: pytest.MonkeyPatch) -> None:
    linux(machine, "asimddp")
    machine.setenv("QC_ISA", "neon")
    assert targets.host_level() == "neon" and parse_target("native").level == "neon"
    assert (
        parse_target("aarch64+neon").execution() == "native" and parse_target("aarch64+dotprod").execution() == "none"
    )
    machine.setenv("QC_ISA", "aarch64+dotprod")
    assert targets.host_level() == "dotprod" and parse_target("aarch64+dotprod").execution() == "native"
    machine.setenv("QC_ISA", "i8mm")
    with pytest.raises(LoweringError, match="QC_ISA=i8mm is more than this CPU has"):
        parse_target("native")
    machine.setenv("QC_ISA", "dotprd")
    with pytest.raises(LoweringError, match="unknown level 'dotprd'") as caught:
        parse_target("native")
    assert "did you mean 'dotprod'" in str(caught.value)


# -- the emulator


@kernel
def nothing(b: KernelBuilder, a: Y) -> None:
    b.store(b.i64(0), a.y)


@foreign
@pytest.mark.parametrize("level", ["neon", "dotprod"])
def test_without_the_emulator_the_error_says_how_to_install_it(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = parse_target(f"aarch64-linux+{level}")
    assert target.execution() == "emulated" and target.why_not() == ""
    monkeypatch.setattr(arm, "has_unicorn", lambda: False)
    assert target.execution() == "none" and not target.can_run()
    with pytest.raises(LoweringError, match="can't run aarch64") as caught:
        compile_kernels([nothing.build(target)])
    assert "pip install 'qcompiler-ir[arm]'" in str(caught.value)


@foreign
def test_other_systems_are_not_emulated() -> None:
    for system in ("macos", "windows"):
        target = parse_target(f"aarch64-{system}+dotprod")
        assert target.execution() == "none" and "pip" not in target.why_not()
