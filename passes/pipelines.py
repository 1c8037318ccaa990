"""The pipelines, as plain lists to be read top to bottom. `with_own` adds the passes that a user registered."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qcompiler.passes.assign_layout import AssignLayout
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.choose_precision import ChoosePrecision
from qcompiler.passes.constant_fold import ConstantFold
from qcompiler.passes.correct_bias import CorrectBias
from qcompiler.passes.cse import Cse
from qcompiler.passes.dce import Dce
from qcompiler.passes.decompose import Decompose
from qcompiler.passes.dynamic_products import DynamicProducts
from qcompiler.passes.equalize import Equalize
from qcompiler.passes.fold_batchnorm import FoldBatchnorm
from qcompiler.passes.fold_pad import FoldPad
from qcompiler.passes.fold_requantize import FoldRequantize
from qcompiler.passes.fuse import Fuse
from qcompiler.passes.insert_observers import InsertObservers
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.passes.integerize import Integerize
from qcompiler.passes.own_passes import with_own
from qcompiler.passes.per_tensor_codes import PerTensorCodes
from qcompiler.passes.propagate_qparams import PropagateQparams
from qcompiler.passes.quantize_dynamic import QuantizeDynamic
from qcompiler.passes.recognize import Recognize
from qcompiler.passes.round_weights import RoundWeights
from qcompiler.passes.scale_channels import ScaleChannels, Scales
from qcompiler.passes.split_outliers import SplitOutliers
from qcompiler.passes.unsigned_codes import UnsignedCodes
from qcompiler.passes.verify_integer_safety import VerifyIntegerSafety
from qcompiler.passmanager import Pass
from qcompiler.quantization.qconfig import QConfig
from qcompiler.types import QuantParams

Configs = Mapping[str, QConfig | None]


def float_pipeline(configs: Configs | None = None, *, equalize: bool = False) -> list[Pass]:
    """Simplify a float graph and fuse its nodes; with `configs`, only those that resolved to the same qconfig."""
    passes: list[Pass] = [
        Dce(),
        ConstantFold(),
        Canonicalize(),
        Decompose(),
        Cse(configs),
        Recognize(configs),
        FoldPad(),
        FoldBatchnorm(configs),
        Fuse(configs),
        *([Equalize()] if equalize else []),
        Dce(),
    ]
    return with_own(passes, configs)


def observe_pipeline(configs: Configs, slow: Mapping[str, str] = MappingProxyType({})) -> list[Pass]:
    """float -> observed; `slow` nodes stay float."""
    return with_own([InsertObservers(configs, slow)], configs)


def precision_pipeline(
    configs: Configs,
    *,
    code_outputs: bool = False,
    steep: Mapping[str, str] = MappingProxyType({}),
    sensitive: Mapping[str, str] = MappingProxyType({}),
) -> list[Pass]:
    """observed -> observed: which values stay real. steep, sensitive: what calibration found
    (`steep.steep_functions`, `real_parts.choose_real_parts`)."""
    return with_own([ChoosePrecision(configs, code_outputs, steep, sensitive)], configs)


def convert_pipeline(
    params: Mapping[str, QuantParams],
    configs: Configs,
    scales: Scales = MappingProxyType({}),
    *,
    shifts: Scales = MappingProxyType({}),
    outliers: Scales = MappingProxyType({}),
    wide: Mapping[str, str] = MappingProxyType({}),
    corrections: Scales = MappingProxyType({}),
    codes: Mapping[str, str] = MappingProxyType({}),
    weight_params: Mapping[str, QuantParams] = MappingProxyType({}),
    code_outputs: bool = False,
    steep: Mapping[str, str] = MappingProxyType({}),
    sensitive: Mapping[str, str] = MappingProxyType({}),
) -> list[Pass]:
    """observed -> qdq -> integer. scales, shifts: those that equalization chose (`equalization.choose_scales`).
    outliers, wide: what is read in 16 bits (`outliers.choose_outliers`).
    corrections: what biases take up (`correct_bias.choose_corrections`).
    codes: those of weights that are chosen on data (`round_weights.choose_roundings`).
    weight_params: of `InsertQdq`."""
    passes: list[Pass] = [
        *([ScaleChannels(scales, shifts)] if scales else []),
        *([SplitOutliers(outliers, wide)] if outliers else []),
        *([CorrectBias(corrections)] if corrections else []),
        InsertQdq(params, configs, weight_params=weight_params),
        *([RoundWeights(codes)] if codes else []),
    ]
    return [
        *precision_pipeline(configs, code_outputs=code_outputs, steep=steep, sensitive=sensitive),
        *with_own(passes, configs),
        *integer_pipeline(configs),
    ]


def dynamic_pipeline(configs: Configs) -> list[Pass]:
    """float -> integer, by dynamic qconfigs."""
    return [*float_pipeline(configs), *with_own([QuantizeDynamic(configs), VerifyIntegerSafety()], configs)]


def integer_pipeline(configs: Configs | None = None) -> list[Pass]:
    """qdq -> integer; without `configs` for imported qdq graphs, whose roundings all stay."""
    passes: list[Pass] = [
        *([PerTensorCodes()] if configs is None else []),
        UnsignedCodes(),
        PropagateQparams(),
        *([DynamicProducts()] if configs is None else []),
        Integerize(configs),
        FoldRequantize(exact=configs is None),
        ConstantFold(),
        Dce(),
        VerifyIntegerSafety(),
    ]
    return with_own(passes, configs)


def lower_pipeline() -> list[Pass]:
    """integer or float -> lowered."""
    return [ConstantFold(dequantize=True), AssignLayout()]
