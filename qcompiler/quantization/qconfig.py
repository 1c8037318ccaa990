"""QConfigs: which spec activations and weights get, by name or by rules."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from qcompiler.errors import QuantizationError, nearest
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType


@dataclass(frozen=True)
class QConfig:
    """Specs of activations and weights. Either None leaves a node float."""

    activation: QuantSpec | None
    weight: QuantSpec | None


_TORCH_WEIGHT = QuantSpec(DType.I8, -128, 127, symmetric=True, per_channel=True, observer="minmax")
_QCONFIGS = {
    "int8": QConfig(QuantSpec(DType.U8), QuantSpec(DType.I8, -127, 127, symmetric=True, per_channel=True, observer="minmax")),
    "int8:minmax": QConfig(QuantSpec(DType.U8, observer="minmax"),
                           QuantSpec(DType.I8, -127, 127, symmetric=True, per_channel=True, observer="minmax")),
    "torch:default": QConfig(QuantSpec(DType.U8, 0, 127, observer="minmax"),
                             QuantSpec(DType.I8, -128, 127, symmetric=True, observer="minmax")),
    "torch:default_per_channel": QConfig(QuantSpec(DType.U8, 0, 127, observer="minmax"), _TORCH_WEIGHT),
}


def get_qconfig(name: str) -> QConfig:
    """A QConfig by name.

    "int8" is ours: u8 [0, 255] affine activations from an exact histogram, i8 [-127, 127] weights a channel. "torch:default" and
    "torch:default_per_channel" are torch's default_qconfig and default_per_channel_qconfig (min-max, [0, 127]).

    Raises:
        QuantizationError: unknown name (nearest given).
    """
    found = _QCONFIGS.get(name)
    if found is None:
        raise QuantizationError(f"unknown qconfig {name!r}", hint=nearest(name, _QCONFIGS))
    return found


@dataclass
class QConfigMapping:
    """Rules from nodes to QConfigs, torch's order of priority: global, object type, module name regex, module name.

    An object type is an IR op ("conv"), or the class name of a module ("Conv2d"). A value None leaves nodes float.
    """

    default: QConfig | None = None
    object_types: dict[str, QConfig | None] = field(default_factory=dict)
    regexes: dict[str, QConfig | None] = field(default_factory=dict)
    names: dict[str, QConfig | None] = field(default_factory=dict)

    def set_global(self, qconfig: QConfig | None) -> QConfigMapping:
        self.default = qconfig
        return self

    def set_object_type(self, kind: str | type, qconfig: QConfig | None) -> QConfigMapping:
        self.object_types[kind if isinstance(kind, str) else kind.__name__] = qconfig
        return self

    def set_module_name_regex(self, pattern: str, qconfig: QConfig | None) -> QConfigMapping:
        try:
            re.compile(pattern)
        except re.error as error:
            raise QuantizationError(f"malformed regex {pattern!r}: {error}") from None
        self.regexes[pattern] = qconfig
        return self

    def set_module_name(self, name: str, qconfig: QConfig | None) -> QConfigMapping:
        self.names[name] = qconfig
        return self
