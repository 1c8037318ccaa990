"""The stages of a graph and what each allows.

    float -> observed -> qdq -> integer -> lowered            (QAT: float -> fake_quant -> qdq -> ...)

The verifier enforces these rules; passes say which stage they take and leave. An op that may stand in some stages only
says so itself (`Op.stages`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """What a graph of one stage may hold.

    Attributes:
        quantized_types: values with quantization parameters may appear.
        integer_ops: ops other than conversions may work on quantized values. Otherwise quantized values run only
            between quantize and dequantize, and from constants to dequantize.
        layouts: types may have a layout.
    """

    name: str
    doc: str
    quantized_types: bool = False
    integer_ops: bool = False
    layouts: bool = False


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("float", "As traced: real numbers only."),
        Stage("observed", "Float, with observers on the values to be quantized."),
        Stage("fake_quant", "Float, rounded where the deployed graph rounds (QAT)."),
        Stage("qdq", "Float ops between dequantize and quantize.", quantized_types=True),
        Stage(
            "integer",
            "Integer ops on quantized values, float ops where the report says so.",
            quantized_types=True,
            integer_ops=True,
        ),
        Stage(
            "lowered",
            "Integer, with physical layouts.",
            quantized_types=True,
            integer_ops=True,
            layouts=True,
        ),
    )
}
ORDER = tuple(STAGES)
