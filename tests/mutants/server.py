"""A process that has imported what the tests need besides qcompiler, and forks a process for each run of pytest.

It reads runs from its input, a JSON object a line (`arguments` of pytest, `environment`, `output`: a file), and prints
for each the id of its process, then, once that has ended, its exit status. Each run is a session of its own. Started
in a copy of the tree: runs import the tests and qcompiler from there.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

IMPORTED = (
    "numpy", "pytest", "hypothesis.extra.numpy", "networkx", "lark", "llvmlite.binding", "safetensors.numpy",
    "graphviz", "rich", "unicorn", "onnx.reference", "onnxruntime", "torch.export", "torch.ao.quantization",
)  # fmt: skip


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        given = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(given["arguments"], given["environment"], given["output"])
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(arguments: list[str], environment: dict[str, str], output: str) -> None:
    os.setsid()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    import pytest

    code = 3
    try:
        code = pytest.main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
