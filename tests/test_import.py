"""`import qcompiler` loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys


def test_heavy_packages_load_when_first_needed() -> None:
    program = (
        "import sys, qcompiler; heavy = {'llvmlite', 'lark', 'networkx', 'graphviz', 'rich', 'torch', 'onnx', 'safetensors', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
