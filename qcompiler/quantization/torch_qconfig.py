"""torch.ao's QConfig with fake-quantize classes, as a QConfig. Does not own what is trained (`qat.py`)."""

from __future__ import annotations

from typing import Any

from qcompiler.errors import QuantizationError
from qcompiler.quantization.qconfig import QConfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType

_CLASSES = ("FakeQuantize", "FusedMovingAvgObsFakeQuantize")
_ACTIVATION_OBSERVERS = {"MovingAverageMinMaxObserver": "moving_average", "MinMaxObserver": "minmax"}
_WEIGHT_OBSERVERS = dict.fromkeys(
    (
        "MinMaxObserver",
        "PerChannelMinMaxObserver",
        "MovingAverageMinMaxObserver",
        "MovingAveragePerChannelMinMaxObserver",
    ),
    "minmax",
)
_DTYPES = {"torch.quint8": DType.U8, "torch.uint8": DType.U8, "torch.qint8": DType.I8, "torch.int8": DType.I8}


def from_torch(qconfig: Any) -> Any:
    """A QConfig for torch.ao's, whose parts are FakeQuantize classes; anything else as it is.

    Ranges of activations are moving averages by the observer's constant, or minima and maxima of all batches. A weight
    has the range of its present numbers, also where torch's observer averages it.

    Raises:
        QuantizationError: torch.ao's QConfigMapping; a class whose rounding or whose observer is not simulated.
    """
    kind = type(qconfig)
    if not kind.__module__.startswith("torch.ao."):
        return qconfig
    if kind.__name__ != "QConfig":
        raise QuantizationError(
            f"torch.ao's {kind.__name__} is not read",
            expected="a torch.ao QConfig",
            hint="qc.QConfigMapping takes the rules",
        )
    activation = _spec(qconfig.activation, "activation", _ACTIVATION_OBSERVERS)
    weight = _spec(qconfig.weight, "weight", _WEIGHT_OBSERVERS)
    return QConfig(activation, weight, mixed_precision=False, equalize=False)


def _spec(factory: Any, where: str, observers: dict[str, str]) -> QuantSpec:
    made = factory()
    kind = type(made)
    if not (kind.__module__.startswith("torch.ao.") and kind.__name__ in _CLASSES):
        learned = "Learnable" in kind.__name__
        raise QuantizationError(
            f"the rounding of the class {kind.__name__} is not simulated",
            where=f"QConfig.{where}",
            expected=" or ".join(_CLASSES),
            hint="qc.QatSchedule(learn_scales=STEP) learns scales" if learned else None,
        )
    observer = made.activation_post_process
    name = observers.get(type(observer).__name__) if type(observer).__module__.startswith("torch.ao.") else None
    if name is None:
        raise QuantizationError(
            f"the ranges of the class {type(observer).__name__} are not simulated",
            where=f"QConfig.{where}",
            expected=" | ".join(observers),
        )
    dtype = _DTYPES.get(str(made.dtype))
    if dtype is None or made.is_dynamic:
        got = f"{made.dtype}, is_dynamic={made.is_dynamic}"
        raise QuantizationError("a fake-quantize class", where=f"QConfig.{where}", expected="8 bits, static", got=got)
    if name == "moving_average" and observer.averaging_constant != 0.01:
        name = f"moving_average({observer.averaging_constant!r})"
    scheme = str(observer.qscheme)
    return QuantSpec(
        dtype, made.quant_min, made.quant_max, "symmetric" in scheme, "channel" in scheme, name, float(observer.eps)
    )
