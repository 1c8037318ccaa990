"""Write stream.o and stream.h: a dynamically quantized LSTM that is called chunk by chunk and hands its states on.

    python examples/embed_c/stream.py FOLDER [TARGET]

One call takes CHUNK frames of FEATURES numbers and the states of the call before. Its weights are codes of 8 bits,
drawn by a fixed seed: what is shown is how states are passed, not a trained model.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

import qcompiler as qc
from qcompiler import nn

CHUNK, FEATURES, UNITS, CLASSES = 8, 16, 32, 4


class Stream(nn.Module):
    """An lstm over [CHUNK, 1, FEATURES], and a linear layer on each of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(FEATURES, UNITS), nn.Linear(UNITS, CLASSES)

    def forward(self, x: Any, h: Any, c: Any) -> dict[str, Any]:
        y, (h, c) = self.lstm(x, (h, c))
        return {"scores": self.head(y), "next_h": h, "next_c": c}


def compiled_stream(target: str = "native") -> qc.CompiledModel:
    """The compiled model, of which a call starts from zeros if it is given zeros."""
    nn.manual_seed(0)
    state = np.zeros((1, 1, UNITS), np.float32)
    return qc.compile(Stream(), "dynamic", (np.zeros((CHUNK, 1, FEATURES), np.float32), state, state), target=target)


if __name__ == "__main__":
    folder, target = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "native"
    compiled_stream().export_object(os.path.join(folder, "stream.o"), target=target, prefix="stream")
