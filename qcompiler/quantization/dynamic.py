"""Dynamic quantization: weights become codes ahead of time, activations as they come. It needs no calibration data.

Owns `qc.quantize_dynamic` and what torch's arguments of that name mean. Does not own the pass, which is
`passes/quantize_dynamic.py`, nor the qconfigs (`qconfig.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING

from qcompiler.arguments import check_type, described
from qcompiler.dims import Dynamic
from qcompiler.errors import QuantizationError, nearest
from qcompiler.ir import Graph
from qcompiler.passmanager import Instrument, PassManager
from qcompiler.quantization.qconfig import QConfig, QConfigMapping, get_qconfig

if TYPE_CHECKING:
    from qcompiler.compiler import CompiledModel

_QCONFIGS = {
    "qint8": "dynamic",
    "float16": "dynamic:float16",
    "quint8": "torch:embedding",
    "quint4x2": "torch:embedding_4bit",
}
"""torch's dtype -> the name of the qconfig that it stands for."""


def quantize_graph(
    graph: Graph, qconfig: str | QConfig | QConfigMapping, instruments: Sequence[Instrument] = ()
) -> Graph:
    """The integer graph of a float graph, by dynamic qconfigs.

    Raises:
        QuantizationError: an unknown qconfig, or a qconfig rule that matches nothing.
    """
    from qcompiler.passes.pipelines import dynamic_pipeline
    from qcompiler.quantization.resolution import resolve

    table = resolve(graph, qconfig)
    configs = {node.name: table[node.name] for node in graph.nodes}
    return PassManager(dynamic_pipeline(configs), instruments).run(graph)


def quantize_dynamic(
    model: object,
    qconfig_spec: Iterable[type | str] | Mapping[type | str, QConfig | str | None] | None = None,
    dtype: object = "qint8",
    mapping: object = None,
    inplace: bool = False,
    *,
    example_inputs: object = None,
    dynamic: Dynamic | None = None,
    target: str = "native",
    threads: int | None = None,
) -> CompiledModel:
    """A compiled model whose layers multiply or read codes: torch's function of this name, for what `compile` takes.

    Args:
        model: what `compile` takes, with its example inputs and dynamic sizes.
        qconfig_spec: which modules: a set of classes and of modules' names, or a dict from these to qconfigs, where
            None leaves a part float. By default all. A class of which the model has no module is no error, as in torch.
        dtype: "qint8" or torch.qint8: weights of 8 bits per channel, and activations of 8 bits per row (the qconfig
            "dynamic"); "float16" or torch.float16: weights are stored in 16 bits ("dynamic:float16"); "quint8" or
            torch.quint8, "quint4x2" or torch.quint4x2: tables of embeddings have rows of 8 or 4 bits (the qconfigs
            "torch:embedding" and "torch:embedding_4bit").
        mapping, inplace: only None and False. torch's models change in place, a compiled model is another object.
        target, threads: as for `compile`.

    Raises:
        QuantizationError: another dtype, a name that matches no module, a qconfig that is not dynamic.
        TraceError, LoweringError: as for `compile`.
    """
    from qcompiler.compiler import compile

    check_type("inplace", inplace, bool, "False")
    check_torch_options(mapping, inplace)
    rules = dynamic_rules(qconfig_spec, get_qconfig(qconfig_of(dtype)))
    return compile(model, rules, example_inputs, dynamic=dynamic, target=target, threads=threads)


def check_torch_options(mapping: object, inplace: object) -> None:
    """QuantizationError for values of torch's parameters that ask for what a compiled model can't do."""
    if inplace:
        raise QuantizationError(
            "quantize_dynamic can't change a model in place", hint="quantized = quantize_dynamic(model, ...)"
        )
    if mapping is not None:
        raise QuantizationError(
            "mapping is torch's table of modules, and a compiled model has none",
            got=described(mapping),
            hint="qconfig_spec says which modules are quantized",
        )


def qconfig_of(dtype: object) -> str:
    """The name of the qconfig that torch's dtype, or its name, stands for."""
    name = str(dtype).removeprefix("torch.")
    if name not in _QCONFIGS:
        raise QuantizationError(
            f"dtype {name}: no weights are quantized to it dynamically",
            expected=" or ".join(_QCONFIGS),
            hint=nearest(name, _QCONFIGS),
        )
    return _QCONFIGS[name]


def dynamic_rules(
    qconfig_spec: Iterable[type | str] | Mapping[type | str, QConfig | str | None] | None, default: QConfig
) -> QConfigMapping:
    """The rules that torch's `qconfig_spec` stands for. default: the qconfig of classes and names without their own."""
    if qconfig_spec is None:
        return QConfigMapping(default)
    is_collection = isinstance(qconfig_spec, (Mapping, Set, list, tuple))
    if not is_collection or not all(isinstance(key, (type, str)) for key in qconfig_spec):
        raise QuantizationError(
            "qconfig_spec", expected="a set of classes and names, or a dict from these to qconfigs",
            got=described(qconfig_spec),
        )  # fmt: skip
    given = qconfig_spec if isinstance(qconfig_spec, Mapping) else dict.fromkeys(qconfig_spec, default)
    if all(qconfig is None for qconfig in given.values()):
        raise QuantizationError("qconfig_spec selects nothing", hint="qconfig_spec=None quantizes all layers")
    rules = QConfigMapping()
    for key, qconfig in given.items():
        if isinstance(key, type):
            rules.set_builtin(key, qconfig)
        elif key == "":  # torch's name of the whole model
            rules.set_global(qconfig)
        else:
            rules.set_module_name(key, qconfig)
    return rules
