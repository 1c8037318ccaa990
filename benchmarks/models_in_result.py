"""What benchmarks/models_in.py finds out about one model, and the limits by which it judges."""

from __future__ import annotations

from dataclasses import dataclass

BOUND = 1e-4
EXPORTERS = ("dynamo", "torchscript")
LARGEST = 40_000_000
"""Models with more parameters than this are not drawn, except that a transformers' configuration is made small."""


@dataclass
class Result:
    """What became of one model. stage: passed over, export, import, compile, run or ok. A model that is at the stage
    export was not written by torch.onnx.export, or its file is wrong by ONNX Runtime's answer."""

    library: str
    name: str
    stage: str
    cause: str = ""
    error: float | None = None
    seconds: float = 0.0
