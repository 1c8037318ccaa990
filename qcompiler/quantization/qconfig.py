"""QConfigs: the specs of activations and weights, by name, or chosen by qconfig rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import NoneType

from qcompiler.arguments import check_text, check_type, described
from qcompiler.errors import QuantizationError, nearest
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType

BY_ROW, BY_TENSOR, FLOAT16, ROWS8, ROWS4 = DYNAMIC = "row", "tensor", "float16", "rows8", "rows4"
"""The kinds of dynamic quantization, `QConfig.dynamic`."""


NEAREST, ADAROUND, GPTQ = ROUNDINGS = "nearest", "adaround", "gptq"
"""How the weights of products become codes, `QConfig.rounding`."""


@dataclass(frozen=True)
class QConfig:
    """The specs of activations and weights. A node stays float if either is None.

    The activation's observer sees the values of a calibration run, the weight's sees the weight: with `per_channel` one
    observer sees one channel each. With `mixed_precision` the pass choose-precision may keep values real where codes
    would cost accuracy; without it, every value that has a range becomes codes. With `equalize` the channels of what
    products read may be divided by scales, and their weights multiplied (`passes/equalization.py`), the widest few
    may be read in 16 bits (`passes/outliers.py`), and biases take up the mean error of rounded weights
    (`passes/correct_bias.py`).

    `rounding` says how weights become codes: "nearest", or by the inputs that calibration saw, "adaround" (Nagel et
    al., 2020) or "gptq" (Frantar et al., 2022); see `passes/round_weights.py`.

    `dynamic` quantizes activations at run time, without observers or calibration: by the range of each row of their
    last axis ("row"), or of the whole tensor ("tensor"), to u8 codes within the spec's range. "float16" only stores the
    weights, in 16 bits. "rows8" and "rows4" store the tables of embeddings in 8 and 4 bits, with a scale and a bias for
    each row, and leave everything else float.

    Raises:
        QuantizationError: a spec that no kind of tensor can have: activations have one scale, a weight at most 8 bits.
    """

    activation: QuantSpec | None
    weight: QuantSpec | None
    mixed_precision: bool = True
    equalize: bool = True
    dynamic: str | None = None
    rounding: str = NEAREST

    def __post_init__(self) -> None:
        check_type("mixed_precision", self.mixed_precision, bool, "True or False")
        check_type("equalize", self.equalize, bool, "True or False")
        check_type("activation", self.activation, (QuantSpec, NoneType), "a QuantSpec, or None for float")
        check_type("weight", self.weight, (QuantSpec, NoneType), "a QuantSpec, or None for float")
        if self.activation is not None and self.activation.per_channel:
            raise QuantizationError(
                "activations have one scale", where="QConfig.activation", expected="per_channel=False"
            )
        if self.activation is not None and self.activation.dtype.bits > 16:
            raise QuantizationError(
                "an activation has at most 16 bits", where="QConfig.activation", got=self.activation.dtype
            )
        if self.weight is not None and self.weight.dtype.bits > 8:
            raise QuantizationError("a weight has at most 8 bits", where="QConfig.weight", got=self.weight.dtype)
        if self.rounding not in ROUNDINGS:
            raise QuantizationError(
                "rounding of a QConfig",
                expected=" | ".join(ROUNDINGS),
                got=described(self.rounding),
                where="QConfig.rounding",
            )
        if self.rounding != NEAREST and (self.weight is None or self.dynamic is not None):
            raise QuantizationError(
                f"{self.rounding} rounds weights on calibration data",
                where="QConfig.rounding",
                expected="a weight spec, and dynamic=None",
            )
        if self.dynamic is not None:
            self._check_dynamic(self.dynamic)

    @property
    def kind(self) -> str:
        """What tables call a node of this qconfig."""
        bits = [spec.bits for spec in (self.weight, self.activation) if spec is not None]
        if bits and min(bits) < 7:
            return "".join(f"{role}{spec.bits}" for role, spec in zip("wa", (self.weight, self.activation)) if spec)
        return {FLOAT16: "f16", ROWS4: "int4"}.get(self.dynamic or "", "int8")

    def _check_dynamic(self, dynamic: str) -> None:
        if dynamic not in DYNAMIC:
            raise QuantizationError(
                "dynamic of a QConfig", expected=" | ".join(DYNAMIC), got=described(dynamic), where="QConfig.dynamic"
            )
        if dynamic in (FLOAT16, ROWS8, ROWS4):
            for name, spec in (("activation", self.activation), ("weight", self.weight)):
                if spec is not None:
                    raise QuantizationError(f"{dynamic} has no {name} spec", where=f"QConfig.{name}", expected="None")
            return
        activation, weight = self.activation, self.weight
        if activation is None or activation.dtype is not DType.U8 or activation.symmetric:
            raise QuantizationError(
                "dynamic activations are u8 and affine", where="QConfig.activation", got=str(activation)
            )
        if weight is None or weight.dtype not in (DType.I8, DType.U8):
            raise QuantizationError(
                "dynamic products have weights of i8 or u8", where="QConfig.weight", got=str(weight)
            )


_OURS_WEIGHT = QuantSpec(DType.I8, -127, 127, symmetric=True, per_channel=True, observer="minmax")
_TORCH_WEIGHT = QuantSpec(DType.I8, -128, 127, symmetric=True, per_channel=True, observer="minmax")
_TORCH_TENSOR_WEIGHT = replace(_TORCH_WEIGHT, per_channel=False)
_REDUCED = QuantSpec(DType.U8, 0, 127, observer="torch_histogram")
_FULL = QuantSpec(DType.U8, observer="torch_histogram")


def _torch(activation: QuantSpec, weight: QuantSpec) -> QConfig:
    """A QConfig that does what torch does and no more."""
    return QConfig(activation, weight, mixed_precision=False, equalize=False)


TORCH_BACKENDS: Mapping[str, QConfig] = {
    "x86": _torch(_REDUCED, _TORCH_WEIGHT),
    "fbgemm": _torch(_REDUCED, _TORCH_WEIGHT),
    "qnnpack": _torch(_FULL, _TORCH_TENSOR_WEIGHT),
    "onednn": _torch(_FULL, _TORCH_WEIGHT),
}
"""torch.ao.quantization.get_default_qconfig of torch 2.13, by backend."""

_INT8 = QConfig(QuantSpec(DType.U8), _OURS_WEIGHT)


def has_torchs_weights(config: QConfig) -> bool:
    """Whether the weights of a QConfig are those of torch's static qconfigs."""
    return config.weight in (_TORCH_WEIGHT, _TORCH_TENSOR_WEIGHT)


def _dynamic(kind: str, weight: QuantSpec, qmax: int = 255) -> QConfig:
    """A QConfig of activations that are quantized at run time. Its observer is that of no calibration."""
    activation = QuantSpec(DType.U8, 0, qmax, observer="minmax")
    return QConfig(activation, weight, mixed_precision=False, equalize=False, dynamic=kind)


def _few_bits(weight: int, activation: int) -> QConfig:
    """Weights of 2 to 8 bits, per channel, and activations of 4 to 8 or of 16."""
    most = 2 ** (weight - 1) - 1
    of_activation = QuantSpec(DType.U8, 0, 2**activation - 1) if activation <= 8 else QuantSpec().widened()
    return QConfig(of_activation, replace(_OURS_WEIGHT, qmin=-most, qmax=most))


_FEW_BITS = re.compile("w([2-8])a([4-8]|16)(?::(adaround|gptq|plain))?")
"""The names of qconfigs by their bits."""

_QCONFIGS: Mapping[str, QConfig] = {
    "int8": _INT8,
    "auto": _INT8,
    "int8:plain": replace(_INT8, mixed_precision=False, equalize=False),
    "int8:minmax": QConfig(QuantSpec(DType.U8, observer="minmax"), _OURS_WEIGHT),
    "int8:percentile": QConfig(QuantSpec(DType.U8, observer="percentile"), _OURS_WEIGHT),
    "int8:mse": QConfig(QuantSpec(DType.U8, observer="mse"), _OURS_WEIGHT),
    "int8:kl": QConfig(QuantSpec(DType.U8, observer="kl"), _OURS_WEIGHT),
    "int8:adaround": replace(_INT8, rounding=ADAROUND),
    "int8:gptq": replace(_INT8, rounding=GPTQ),
    "w4a8": _few_bits(4, 8),
    "w4a8:adaround": replace(_few_bits(4, 8), rounding=ADAROUND),
    "w4a8:gptq": replace(_few_bits(4, 8), rounding=GPTQ),
    "w4a4": _few_bits(4, 4),
    "w4a4:adaround": replace(_few_bits(4, 4), rounding=ADAROUND),
    "w4a4:gptq": replace(_few_bits(4, 4), rounding=GPTQ),
    "dynamic": _dynamic(BY_ROW, _OURS_WEIGHT),
    "dynamic:per_tensor": _dynamic(BY_TENSOR, _OURS_WEIGHT),
    "dynamic:reduced": _dynamic(BY_ROW, _OURS_WEIGHT, 127),
    "dynamic:float16": QConfig(None, None, mixed_precision=False, equalize=False, dynamic=FLOAT16),
    "torch:dynamic": _dynamic(BY_TENSOR, _TORCH_TENSOR_WEIGHT, 127),
    "torch:dynamic_per_channel": _dynamic(BY_TENSOR, _TORCH_WEIGHT, 127),
    "torch:embedding": QConfig(None, None, mixed_precision=False, equalize=False, dynamic=ROWS8),
    "torch:embedding_4bit": QConfig(None, None, mixed_precision=False, equalize=False, dynamic=ROWS4),
    "torch:default": _torch(QuantSpec(DType.U8, 0, 127, observer="minmax"), _TORCH_TENSOR_WEIGHT),
    "torch:default_per_channel": _torch(QuantSpec(DType.U8, 0, 127, observer="minmax"), _TORCH_WEIGHT),
    **{f"torch:{backend}": qconfig for backend, qconfig in TORCH_BACKENDS.items()},
}


_SYNONYMS = {
    "static": "int8",
    "uint8": "int8",
    "qint8": "int8",
    "quint8": "int8",
    "default": "int8",
    "plain": "int8:plain",
    "entropy": "int8:kl",
    "histogram": "int8",
    "minmax": "int8:minmax",
    "percentile": "int8:percentile",
    "mse": "int8:mse",
    **{backend: f"torch:{backend}" for backend in ("x86", "fbgemm", "qnnpack", "onednn")},
}
"""What else the field calls a qconfig."""


def get_qconfig(name: str) -> QConfig:
    """A QConfig by name.

    "int8" is ours: u8 [0, 255] affine activations from an exact histogram, i8 [-127, 127] weights per channel.
    Values around norms and softmax, and behind the last product, stay real; with "int8:plain" they are codes too,
    and channels are not equalized.
    "int8:minmax", "int8:percentile", "int8:mse", "int8:kl" differ in the observer. "auto" is int8 for a whole model,
    except for nodes that are slower in int8 by a cost model. "torch:x86", "torch:fbgemm", "torch:qnnpack" and
    "torch:onednn" have torch's numbers for its backends; "torch:default" and "torch:default_per_channel" are its
    default_qconfig and default_per_channel_qconfig.
    "w4a8" and "w4a4" are "int8" with weights of 4 bits, [-7, 7], and activations of 8 and 4, [0, 15]; likewise all from
    w2 to w8 and from a4 to a8, and a16, whose activations are i16. ":plain" behind such a name is as with int8, and
    ":adaround" and ":gptq", there and behind int8, choose the codes of weights on calibration data (`QConfig`).
    "dynamic" quantizes activations at run time, per row, and needs no calibration data; weights are those of "int8".
    "dynamic:per_tensor" has one range for each tensor, "dynamic:reduced" activations of seven bits, [0, 127], which are
    faster on CPUs without a dot product instruction, and "dynamic:float16" only stores weights in 16 bits.
    "torch:dynamic" and "torch:dynamic_per_channel" are torch's default_dynamic_qconfig and per_channel_dynamic_qconfig,
    with its reduced range: activations are u8 [0, 127]. "torch:embedding" and "torch:embedding_4bit" are
    float_qparams_weight_only_qconfig and float_qparams_weight_only_qconfig_4bit: tables of embeddings have rows of 8 or
    4 bits, and all else stays float.

    Raises:
        QuantizationError: unknown name (nearest given).
    """
    check_text("name", name, "the name of a qconfig")
    found = _QCONFIGS.get(name) or _by_bits(name)
    if found is None:
        raise QuantizationError(f"unknown qconfig {name!r}", hint=nearest(name, [*_QCONFIGS, "keep"], _SYNONYMS))
    return found


def _by_bits(name: str) -> QConfig | None:
    """The QConfig that a name such as "w3a6:gptq" stands for."""
    match = _FEW_BITS.fullmatch(name)
    if match is None:
        return None
    found = _few_bits(int(match[1]), int(match[2]))
    if match[3] == "plain":
        return replace(found, mixed_precision=False, equalize=False)
    return replace(found, rounding=match[3] or NEAREST)


def get_default_qconfig(backend: str = "x86") -> QConfig:
    """torch's get_default_qconfig. "x86" and "fbgemm" reduce activations to [0, 127], "qnnpack" has per-tensor weights,
    "onednn" neither.

    Raises:
        QuantizationError: unknown backend (nearest given).
    """
    check_text("backend", backend, "the name of a torch backend")
    found = TORCH_BACKENDS.get(backend)
    if found is None:
        raise QuantizationError(f"unknown backend {backend!r}", hint=nearest(backend, TORCH_BACKENDS))
    return found


def get_default_qat_qconfig(backend: str = "x86") -> QConfig:
    """torch's get_default_qat_qconfig of torch 2.13: what `get_default_qconfig` says, with moving averages as ranges.

    torch averages the ranges of weights too; here a weight has the range of its present numbers, as in deployment.

    Raises:
        QuantizationError: unknown backend (nearest given).
    """
    static = get_default_qconfig(backend)
    assert static.activation is not None
    return replace(static, activation=replace(static.activation, observer="moving_average"))


@dataclass
class QConfigMapping:
    """QConfig rules: which nodes get which QConfig.

    The priority is torch's, the highest last: global, object type, module name regex (the first that matches, as
    re.match), module name, module name with object type and order. An object type is an IR op ("conv"), an ONNX op
    ("Conv"), or a class or its name ("Conv2d"). None leaves nodes float. A rule that matches nothing is an error when a
    graph is resolved; `builtin` rules, which are above the global one and below all others, may match nothing.
    """

    default: QConfig | None = None
    object_types: dict[str, QConfig | None] = field(default_factory=dict)
    regexes: dict[str, QConfig | None] = field(default_factory=dict)
    names: dict[str, QConfig | None] = field(default_factory=dict)
    orders: dict[tuple[str, str, int], QConfig | None] = field(default_factory=dict)
    builtin: dict[str, QConfig | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.default = _named(self.default)
        for rules in ("object_types", "regexes", "names", "orders", "builtin"):
            check_type(rules, getattr(self, rules), dict, "a dict: key -> QConfig or None; the set_ methods fill it")

    def set_global(self, qconfig: QConfig | str | None) -> QConfigMapping:
        self.default = _named(qconfig)
        return self

    def set_object_type(self, kind: str | type, qconfig: QConfig | str | None) -> QConfigMapping:
        self.object_types[_kind(kind)] = _named(qconfig)
        return self

    def set_builtin(self, kind: str | type, qconfig: QConfig | str | None) -> QConfigMapping:
        """Like `set_object_type`, but the rule may match nothing, and all others but the global one come before it."""
        self.builtin[_kind(kind)] = _named(qconfig)
        return self

    def set_module_name_regex(self, pattern: str, qconfig: QConfig | str | None) -> QConfigMapping:
        check_text("pattern", pattern, "a regex of module names")
        try:
            re.compile(pattern)
        except re.error as error:
            raise QuantizationError(f"malformed regex {pattern!r}: {error}") from None
        self.regexes[pattern] = _named(qconfig)
        return self

    def set_module_name(self, name: str, qconfig: QConfig | str | None) -> QConfigMapping:
        check_text("name", name, "the name of a module")
        self.names[name] = _named(qconfig)
        return self

    def set_module_name_object_type_order(
        self, name: str, kind: str | type, index: int, qconfig: QConfig | str | None
    ) -> QConfigMapping:
        """Set the qconfig of node number `index` (from 0) of this kind inside the module `name`."""
        check_text("name", name, "the name of a module")
        check_type("index", index, int, "the number of a node, from 0")
        self.orders[name, _kind(kind), index] = _named(qconfig)
        return self


def is_dynamic(qconfig: str | QConfig | QConfigMapping) -> bool:
    """Whether activations are quantized at run time.

    Raises:
        QuantizationError: no qconfig, or a mapping in which some qconfigs are dynamic and others are not.
    """
    mapping, _ = as_mapping(qconfig)
    tables = (mapping.object_types, mapping.regexes, mapping.names, mapping.orders, mapping.builtin)
    found = [mapping.default, *(config for table in tables for config in table.values())]
    kinds = {config.dynamic is not None for config in found if config is not None}
    if len(kinds) > 1:
        raise QuantizationError(
            "a mapping has dynamic and static qconfigs",
            hint="quantize all nodes dynamically, or none; None leaves a node float",
        )
    return kinds == {True}


def as_mapping(qconfig: str | QConfig | QConfigMapping) -> tuple[QConfigMapping, str]:
    """The mapping that a qconfig stands for, and what a table calls its global rule.

    Raises:
        QuantizationError: an unknown name (nearest given), or something that is no qconfig.
    """
    if isinstance(qconfig, QConfigMapping):
        return qconfig, "global"
    if isinstance(qconfig, QConfig):
        return QConfigMapping(qconfig), "global"
    if not isinstance(qconfig, str):
        raise QuantizationError(
            "not a qconfig", expected="a name, QConfig or QConfigMapping", got=type(qconfig).__name__
        )
    backend = qconfig.removeprefix("torch:")
    torch = qconfig.startswith("torch:") and backend in TORCH_BACKENDS
    mapping = get_default_qconfig_mapping(backend) if torch else QConfigMapping(get_qconfig(qconfig))
    return mapping, f"global {qconfig}"


def _kind(kind: str | type) -> str:
    check_type("kind", kind, (str, type), "a class, or the name of an op or a class")
    return kind if isinstance(kind, str) else kind.__name__


def _named(qconfig: QConfig | str | None) -> QConfig | None:
    if isinstance(qconfig, str) and qconfig == "auto":
        raise QuantizationError(
            '"auto" weighs a whole model',
            expected="the qconfig of a rule",
            hint='"int8", or qconfig="auto" without a mapping',
        )
    if isinstance(qconfig, str):
        return get_qconfig(qconfig)
    if qconfig is not None and not isinstance(qconfig, QConfig):
        raise QuantizationError(
            "not a qconfig", expected="a QConfig, the name of one, or None", got=type(qconfig).__name__
        )
    return qconfig


def get_default_qconfig_mapping(backend: str = "x86") -> QConfigMapping:
    """torch's get_default_qconfig_mapping: the backend's qconfig for all nodes, but per-tensor weights for transposed
    convolutions on x86 and fbgemm."""
    qconfig = get_default_qconfig(backend)
    mapping = QConfigMapping(qconfig)
    if backend in ("x86", "fbgemm"):
        mapping.builtin["conv_transpose"] = replace(qconfig, weight=_TORCH_TENSOR_WEIGHT)
    return mapping
