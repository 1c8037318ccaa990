"""The table of all of ONNX's own ops for docs/ops.md: served, decomposed, or refused and why.

What is served comes from the importer's table and from onnx.defs, so it cannot be wrong; the reasons are here, and the
tests hold them to the ops that are refused.
"""

from __future__ import annotations

from qcompiler.frontend.onnx_bodies import is_defined
from qcompiler.frontend.onnx_ops import table

_DATA = "the result's shape depends on data"
_RANDOM = "random numbers: a program gives the same answer each time"
_TEXT = "text, and no tensor of numbers"
_LOOP = "a loop over data; LSTM, GRU and RNN are ops"
_TRAINING = "a loss, for training"
_NO_OP = "no op of the graph has this meaning yet"
_SPECTRUM = "complex numbers"
REASONS: dict[str, str] = {
    **dict.fromkeys(("NonMaxSuppression", "Unique"), _DATA),
    **dict.fromkeys(
        (
            "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"
        ),
        _RANDOM,
    ),
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "ImageDecoder"), _TEXT
    ),
    **dict.fromkeys(("LinearAttention", "Loop", "Scan", "SequenceMap"), _LOOP),
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), _TRAINING),
    **dict.fromkeys(("DFT", "MelWeightMatrix", "STFT"), _SPECTRUM),
}  # fmt: skip
"""Why an op is refused; `_NO_OP` for the others."""
_SERVED_IN_PARTS = {
    "If": "the branch that a known condition selects",
    "NonZero": "of known numbers",
    "Compress": "by a known mask",
}


def all_ops() -> list[str]:
    """The names of ONNX's own ops, those that the newest opset deprecates included."""
    from onnx import defs

    return sorted({schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == ""})


def status(op: str) -> str:
    """What the importer makes of an op: a cell of the table."""
    from onnx.defs import onnx_opset_version

    if op in table() or op == "If":
        part = _SERVED_IN_PARTS.get(op)
        return "served" + (f": {part}" if part else "")
    if op not in REASONS and is_defined(op, onnx_opset_version()):
        return "decomposed, as ONNX defines it"
    return f"refused: {REASONS.get(op, _NO_OP)}"


def page() -> list[str]:
    """The section of docs/ops.md, line by line."""
    rows = [f"| {op} | {status(op)} |" for op in all_ops()]
    served = sum("| served" in row or "| decomposed" in row for row in rows)
    return [
        "## All ops of ONNX",
        "",
        f"{served} of {len(rows)}, opset 7 to the newest that the package onnx knows. served: the importer has a "
        "recipe, within the limits below. decomposed: ONNX defines the op by others, which are imported in its place. "
        "Written from the importer's table and `onnx.defs`.",
        "",
        "| op | |",
        "|---|---|",
        *rows,
    ]
