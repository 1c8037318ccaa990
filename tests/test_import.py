"""`import qcompiler` loads nothing heavy, and its three lists of public names agree."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qcompiler


def test_heavy_packages_load_when_first_needed() -> None:
    program = (
        "import sys, qcompiler; dir(qcompiler);"
        "heavy = {'llvmlite', 'lark', 'networkx', 'graphviz', 'rich', 'torch', 'onnx', 'safetensors', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)), [name for name in sys.modules if name.startswith('qcompiler.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_public_names_are_what_type_checkers_see() -> None:
    [block] = [node for node in ast.parse(Path(qcompiler.__file__).read_text()).body if isinstance(node, ast.If)][:1]
    imported = {
        alias.asname or alias.name: (statement.module, alias.name)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert sorted(imported) == qcompiler.__all__
    for name, (module, original) in imported.items():
        found = getattr(qcompiler, name)
        assert found is getattr(sys.modules[str(module)], original), name


def test_dir_lists_the_public_names() -> None:
    assert set(dir(qcompiler)) == {*qcompiler.__all__, "__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        getattr(qcompiler, "compil")  # noqa: B009


def test_a_stored_program_loads_without_what_makes_programs(tmp_path: Path) -> None:
    saved = tmp_path / "net.qc.safetensors"
    text = "qcompiler 1\ngraph g(%x: f32[4]) stage=float {\n  %y = relu(%x) : f32[4]\n  return %y\n}\n"
    makes = ["qcompiler.passes.fuse", "qcompiler.ops.conv", "qcompiler.backends.codegen.emit_llvm"]
    program = (
        "import sys, numpy as np, qcompiler as qc;"
        "model = qc.load(sys.argv[1]); model(np.zeros(4, np.float32));"
        f"print([name for name in {makes} if name in sys.modules])"
    )

    def imported() -> str:
        command = [sys.executable, "-c", program, str(saved)]
        environment = {**os.environ, "QC_CACHE": str(tmp_path / "cache")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    qcompiler.compile(qcompiler.parse(text), None).save(saved)
    assert imported() != "[]"  # the first process makes the program
    assert imported() == "[]"
