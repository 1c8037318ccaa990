"""Runs commands in this process, and holds a Python module with models, for the tests of the command line."""

from __future__ import annotations

import pathlib

from qcompiler.cli import arguments as cli

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = ("--target", "reference")
MODULE = """
import numpy as np
from qcompiler.frontend import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.soft = nn.Softmax(-1)
    def forward(self, x):
        return self.soft(self.fc(x))

def make():
    model = Small()
    weights = {"fc.weight": np.linspace(-1, 1, 12, dtype="f4").reshape(3, 4), "fc.bias": np.zeros(3, "f4")}
    model.load_state_dict(weights)
    return model

model = make()
def fails():
    raise RuntimeError("by design")
def two(x, y):
    return {"sum": x + y, "last": y}
broken = 3
"""


def call(capsys, *arguments: str) -> str:
    """The stdout of a command that must succeed and print nothing on stderr."""
    code = cli.main(arguments)
    told = capsys.readouterr()
    assert (code, told.err) == (0, ""), told.err
    return told.out


def fail(capsys, *arguments: str, code: int = 1) -> str:
    """The message of a command that must fail with one message, without a traceback, and print nothing on stdout."""
    assert cli.main(arguments) == code
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("qcompiler: ") and "Traceback" not in told.err
    return told.err
