"""Quantization-aware training in torch: `prepare_qat`.

A module is traced and fused to the observed graph that static quantization makes of it, and trained by computing that
graph in torch (`qat_simulation.py`): weights and observed values are rounded by the rules of qmath. In evaluation the
module runs the very program that `QatModule.convert` gives, on codes. Does not own the passes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from qcompiler.arguments import check_type
from qcompiler.dims import Dim, Dynamic
from qcompiler.errors import InputError, QuantizationError
from qcompiler.export.torch.module import to_torch
from qcompiler.fake_quant import fake_quantize, first_weight_scale
from qcompiler.ir import Const, Graph
from qcompiler.ops.conv import Conv
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.linear import Linear
from qcompiler.ops.norm import BatchNorm
from qcompiler.ops.quantized import Observe
from qcompiler.passmanager import Instrument
from qcompiler.qat_simulation import Simulation, norm_factor
from qcompiler.quantization.choose_qparams import choose_qparams, symmetric_zero_point
from qcompiler.quantization.observers import Observer
from qcompiler.quantization.qat_schedule import QatSchedule
from qcompiler.quantization.qconfig import NEAREST, QConfig, QConfigMapping, get_default_qat_qconfig, is_dynamic
from qcompiler.quantization.spec import QuantSpec
from qcompiler.quantization.torch_qconfig import from_torch
from qcompiler.quantization.workflow import Prepared, convert, prepare
from qcompiler.types import MAX_SCALE, MIN_SCALE, QuantParams

__all__ = ["QatModule", "QatSchedule", "get_default_qat_qconfig", "prepare_qat"]

FITTED = tuple(part / 20 for part in range(20, 3, -1))
"""The parts of a range that learned scales may begin with."""
STATE = "qat_state"
"""The name of the submodule that holds what training adds: ranges, the count of steps, and a digest of the graph."""


@dataclass(frozen=True)
class _Layer:
    """The names of the parameters of one product, and of the module that is the batch norm behind it."""

    weight: str
    bias: str | None
    norm: str | None


class _Found:
    """An observer that gives the parameters which training has found."""

    def __init__(self, params: QuantParams) -> None:
        self._params = params

    def observe(self, array: np.ndarray, name: str = "") -> None:
        raise QuantizationError("a trained range observes nothing")

    def merge(self, other: Observer) -> None:
        raise QuantizationError("trained ranges cannot merge")

    def qparams(self) -> QuantParams:
        return self._params


@dataclass
class Setup:
    """What a module in training is made of.

    Attributes:
        source: a module with the same parameters, buffers and submodules, without what training adds.
        read: parameters that nodes other than products read, such as tables of embeddings.
        groups: group of observed values -> its index in the buffers `low`, `high` and `seen`.
        settings: the qconfig, the example inputs and the dynamic sizes.
    """

    source: Any
    prepared: Prepared
    layers: Mapping[str, _Layer]
    schedule: QatSchedule
    settings: tuple[Any, ...]
    read: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.groups = {group: index for index, group in enumerate(self.prepared.specs())}
        self._specs = self.prepared.specs()
        nodes = {node.name: node for node in self.prepared.graph.nodes}
        rounded = {name: Weighted.of(nodes[name]) for name in self.layers}
        self._products = {
            name: (f"weight_scale{index}", layer, spec)
            for index, (name, layer) in enumerate(rounded.items())
            if layer is not None and (spec := self._weight_spec(name, layer)) is not None
        }

    def _weight_spec(self, name: str, layer: Weighted) -> QuantSpec | None:
        """The spec of a weight that is rounded."""
        config = self.prepared.configs.get(name)
        return None if config is None or Observe.of(layer.x.producer) is None else config.weight

    def add_learned(self, state: torch.nn.Module) -> None:
        """Add the parameters that are learned, with values that `begin_learning` replaces."""
        for name, (_, _layer, spec) in self._products.items():
            if not spec.symmetric:
                raise QuantizationError(
                    "zero points of weights are not learned", where=f"%{name}", expected="a symmetric weight spec"
                )
        state.register_buffer("learning", torch.zeros((), dtype=torch.bool))
        state.register_parameter("scale", torch.nn.Parameter(torch.ones(len(self.groups))))
        state.register_parameter("zero_point", torch.nn.Parameter(torch.zeros(len(self.groups))))
        for key, layer, spec in self._products.values():
            scale = self._first_scale(layer, spec)
            state.register_parameter(key, torch.nn.Parameter(torch.ones_like(scale)))

    def _first_scale(self, layer: Weighted, spec: QuantSpec) -> torch.Tensor:
        axis = layer.quant.weight_axis if spec.per_channel else None
        return first_weight_scale(self._folded(layer.node.name), spec, axis)

    def _folded(self, name: str) -> torch.Tensor:
        names = self.layers[name]
        weight: torch.Tensor = self.source.get_parameter(names.weight).detach()
        if names.norm is None:
            return weight
        factor = norm_factor(self.source.get_submodule(names.norm)).detach()
        return weight * factor.reshape([-1] + [1] * (weight.dim() - 1))

    def begin_learning(self, state: Any) -> bool:
        """Give the learned parameters their first values, once. Whether it did."""
        if bool(state.learning):
            return False
        with torch.no_grad():
            for group, index in self.groups.items():
                params = choose_qparams(float(state.low[index]), float(state.high[index]), self._specs[group])
                state.scale[index], state.zero_point[index] = params.scale[0], float(params.zero_point[0])
            for key, layer, spec in self._products.values():
                getattr(state, key).copy_(self._first_scale(layer, spec))
            state.learning.fill_(True)
        return True

    def fit_activation(self, state: Any, group: str, x: torch.Tensor) -> None:
        """Let learning begin with the part of the observed range that has the least squared error on a batch (LSQ+,
        Bhalgat et al. 2020, section 3.3)."""
        index, spec, x = self.groups[group], self._specs[group], x.detach()
        low, high = float(state.low[index]), float(state.high[index])
        errors = []
        for part in FITTED:
            params = choose_qparams(part * low, part * high, spec)
            errors.append((float((fake_quantize(x, params) - x).square().mean()), params))
        params = min(errors, key=lambda each: each[0])[1]
        with torch.no_grad():
            state.scale[index], state.zero_point[index] = params.scale[0], float(params.zero_point[0])

    def learned_activation(self, state: Any, group: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The scale and the real zero point of a group; gradients reach what of them is learned."""
        index, spec = self.groups[group], self._specs[group]
        zero = state.zero_point[index].clone()  # the vectors change in place when learning begins
        return _positive(state.scale[index].clone(), spec), zero.detach() if spec.symmetric else zero

    def learned_weight(self, state: Any, name: str) -> torch.Tensor:
        """The scale of a weight, shaped to broadcast."""
        key, _, spec = self._products[name]
        return _positive(getattr(state, key), spec)

    def params(self, state: Any) -> dict[str, QuantParams]:
        """Group -> the parameters that training has found, of the groups that were observed."""
        found = {}
        for group, index in self.groups.items():
            spec = self._specs[group]
            if not bool(state.seen[index]):
                continue
            params = choose_qparams(float(state.low[index]), float(state.high[index]), spec)
            if self.is_learning(state):
                scale, zero = self.learned_activation(state, group)
                point = int(torch.round(zero.detach()).clamp(spec.qmin, spec.qmax))
                params = replace(params, scale=(float(scale.detach()),), zero_point=(point,))
            found[group] = params
        return found

    def weight_params(self, state: Any) -> dict[str, QuantParams]:
        """Node of a product -> the parameters of its weight, where they are learned."""
        if not self.is_learning(state):
            return {}
        found = {}
        for name, (_, layer, spec) in self._products.items():
            scales = self.learned_weight(state, name).detach().cpu().reshape(-1).tolist()
            axis = layer.quant.weight_axis if spec.per_channel else None
            points = (symmetric_zero_point(spec),) * len(scales)
            found[name] = QuantParams(tuple(scales), points, axis, spec.qmin, spec.qmax)
        return found

    def is_learning(self, state: Any) -> bool:
        """Whether scales are parameters by now."""
        return self.schedule.learns and bool(state.learning)


def _positive(learned: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """The legal scale of a learned parameter: its magnitude, so that a step of an optimizer across 0 can be undone."""
    return learned.abs().clamp(float(np.float32(max(spec.eps, MIN_SCALE))), MAX_SCALE)


class QatModule(torch.nn.Module):
    """A module in training with rounded weights and activations. `prepare_qat` makes it.

    The parameters, buffers and submodules are those of the user's module, under the same names. What training adds is
    in the submodule `qat_state`.
    """

    qat_state: Any
    _setup: Setup
    _evaluated: tuple[Any, torch.nn.Module] | None
    _simulation: Simulation | None

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        source = setup.source
        self.__dict__["_parameters"], self.__dict__["_buffers"] = source._parameters, source._buffers
        self._modules.update(source._modules)
        self.__dict__.update(_setup=setup, _evaluated=None, _simulation=None)
        state, count = torch.nn.Module(), len(setup.groups)
        state.register_buffer("low", torch.zeros(count))
        state.register_buffer("high", torch.zeros(count))
        state.register_buffer("seen", torch.zeros(count, dtype=torch.bool))
        state.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        digest = hashlib.sha256(str(setup.prepared.graph).encode()).digest()
        state.register_buffer("graph", torch.frombuffer(bytearray(digest), dtype=torch.uint8).clone())
        if setup.schedule.learns:
            setup.add_learned(state)
        self._modules[STATE] = state
        self.register_load_state_dict_pre_hook(_check_checkpoint)  # type: ignore[no-untyped-call]

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The module's outputs: a tensor, or a tuple of tensors if there are several.

        Raises:
            InputError: another number of inputs, or other shapes, than the graph has.
            QuantizationError: NaN or Inf in an observed value; evaluation before anything was observed.
        """
        sizes = self._checked(inputs)
        if not self.training:
            return self._evaluation()(*inputs)
        if self._simulation is None:
            self.__dict__["_simulation"] = Simulation(self._setup, self.qat_state)
        assert self._simulation is not None
        outputs = tuple(self._simulation.run(inputs, sizes))
        self.qat_state.steps += 1
        return outputs[0] if len(outputs) == 1 else outputs

    def convert(self, *, io: Literal["float", "quantized"] = "float", instruments: Sequence[Instrument] = ()) -> Graph:
        """The integer graph of the present weights and ranges, which evaluation computes to the bit. Nothing of the
        module changes. io, instruments: of `qc.convert`.

        Raises:
            QuantizationError: a value was never observed, or the weights give another graph than at the beginning.
        """
        setup = self._setup
        prepared = _prepared(setup.source, *setup.settings)
        if prepared.members() != setup.prepared.members():
            raise QuantizationError(
                "the trained weights give a graph with other values to observe than prepare_qat found",
                got=", ".join(sorted(set(prepared.members()) ^ set(setup.prepared.members()))[:5]),
            )
        params = setup.params(self.qat_state)
        missing = [group for group in setup.groups if group not in params]
        if missing:
            raise QuantizationError(
                f"no range was observed by {len(missing)} of {len(setup.groups)} observers",
                where=", ".join(f"%{group}" for group in missing[:5]) + (", ..." if len(missing) > 5 else ""),
                expected="at least one step in training mode",
                hint="model.train(), and call the model on a batch",
            )
        prepared = replace(prepared, weight_params=setup.weight_params(self.qat_state))
        observers = {group: _Found(found) for group, found in params.items()}
        return convert(prepared, observers, io=io, instruments=instruments)

    def _checked(self, inputs: tuple[torch.Tensor, ...]) -> dict[str, int]:
        """The sizes that the inputs give to the graph's symbols."""
        declared = self._setup.prepared.graph.inputs
        if len(inputs) != len(declared):
            raise InputError("another number of inputs", expected=len(declared), got=len(inputs))
        sizes: dict[str, int] = {}
        for value, given in zip(declared, inputs):
            check_type(value.name, given, torch.Tensor, "a tensor")
            fits = given.dim() == value.type.rank and all(
                sizes.setdefault(str(size), actual) == actual if isinstance(size, Dim) else size == actual
                for size, actual in zip(value.type.shape, given.shape)
            )
            if not fits:
                raise InputError(
                    "the shape of an input",
                    where=f"%{value.name}",
                    expected=str(value.type),
                    got=str(list(given.shape)),
                    hint="prepare_qat(..., dynamic={input: {0: 'N'}}) leaves a size open",
                )
        return sizes

    def _evaluation(self) -> torch.nn.Module:
        """The converted program as a torch module, made anew when a parameter or a buffer has changed."""
        tensors = [*self.parameters(), *self.buffers()]
        digest = hashlib.blake2b()  # of the bytes, since writing to `.data` changes no version
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        key = (digest.digest(), tensors[0].device)
        if self._evaluated is not None and self._evaluated[0] == key:
            return self._evaluated[1]
        made = to_torch(self.convert()).to(tensors[0].device)
        self.__dict__["_evaluated"] = key, made
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_evaluated": None, "_simulation": None}


def prepare_qat(
    module: torch.nn.Module,
    qconfig: str | QConfig | QConfigMapping = "int8:plain",
    example_inputs: object = None,
    *,
    dynamic: Dynamic | None = None,
    schedule: QatSchedule | None = None,
) -> QatModule:
    """A module to train with the rounding of deployment. The given one is copied and doesn't change.

    Convolutions and linear layers are trained with the batch norm behind them folded: the weight that is rounded is
    w * gamma / sqrt(running_var + eps), as in deployment (Krishnamoorthi 2018).

    Args:
        module: in training mode, with float32 parameters.
        qconfig: static, without choices that need calibration data: "int8:plain", "torch:x86" and its like, or a
            QConfig with mixed_precision=False and equalize=False. Ranges of activations are moving averages of minima
            and maxima, or with the observer minmax those of all batches. torch.ao's QConfig of FakeQuantize or
            FusedMovingAvgObsFakeQuantize is taken too.
        example_inputs, dynamic: as for `prepare`. A training batch has the same sizes where they are not dynamic.
        schedule: when phases begin; by default everything is rounded and observed from the first step.

    Raises:
        QuantizationError: a module in evaluation mode, a qconfig that training cannot simulate, dropout, or trained
            parameters that are not the weight, bias or batch norm of a product.
        TraceError: the module cannot be traced.
    """
    check_type("module", module, torch.nn.Module, "a torch.nn.Module in training mode")
    schedule = QatSchedule() if schedule is None else schedule
    check_type("schedule", schedule, QatSchedule, "a QatSchedule")
    if not module.training:
        raise QuantizationError(
            "the module is in evaluation mode",
            where=type(module).__name__,
            expected="training mode",
            hint="module.train()",
        )
    if STATE in dict(module.named_children()):
        raise QuantizationError(f"the module has a submodule {STATE!r} already", hint="give it another name")
    for name, each in module.named_modules():
        if isinstance(each, torch.nn.modules.dropout._DropoutNd) and each.p > 0:
            raise QuantizationError(
                "dropout is not simulated", where=name, expected="p=0", got=f"p={each.p}", hint="train without dropout"
            )
    qconfig = from_torch(qconfig)
    if is_dynamic(qconfig):
        raise QuantizationError(
            "training with dynamic quantization is not simulated",
            expected="a static qconfig",
            hint='"int8:plain", or qc.quantize_dynamic on the trained float module',
        )
    settings = qconfig, example_inputs, dynamic
    source = copy.deepcopy(module)
    prepared = _prepared(source, *settings)
    for name, config in prepared.configs.items():
        if config is not None and (config.mixed_precision or config.equalize or config.rounding != NEAREST):
            raise QuantizationError(
                "training cannot simulate what conversion chooses from calibration data",
                where=f"%{name}",
                expected=f"a QConfig with mixed_precision=False, equalize=False and rounding={NEAREST!r}",
                hint='"int8:plain"',
            )
    read = _read_by_others(source, prepared.graph)
    layers = _layers(source, prepared.graph, settings)
    _check_all_trained(source, layers, read)
    return QatModule(Setup(source, prepared, layers, schedule, settings, read))


def _prepared(source: torch.nn.Module, qconfig: Any, example_inputs: object, dynamic: Dynamic | None) -> Prepared:
    return prepare(copy.deepcopy(source).eval(), qconfig, example_inputs, dynamic=dynamic)


def _layers(source: torch.nn.Module, graph: Graph, settings: tuple[Any, ...]) -> dict[str, _Layer]:
    """Node of a product -> its parameters. They are found in the traced graph, by the name of the weight: folding a
    batch norm keeps that name and adds a suffix."""
    from qcompiler.compiler import trace

    traced = trace(copy.deepcopy(source).eval(), settings[1], dynamic=settings[2])
    by_weight: dict[str, list[_Layer]] = {}
    parameters = dict(source.named_parameters())
    for node in traced.nodes:
        layer = Weighted.of(node)
        if layer is not None and layer.weight.name in parameters:
            users = node.result.users
            norm = BatchNorm.of(users[0]) if len(users) == 1 else None
            name = None if norm is None else norm.mean.name.rpartition(".")[0]
            bias = None if layer.bias is None else layer.bias.name
            by_weight.setdefault(layer.weight.name, []).append(_Layer(layer.weight.name, bias, name))
    found: dict[str, _Layer] = {}
    for node in graph.nodes:
        layer = Weighted.of(node)
        if layer is None:
            continue
        folded = layer.weight.name.endswith(".folded")
        own = by_weight.get(layer.weight.name.removesuffix(".folded"), [])
        if folded and not isinstance(layer, (Conv, Linear)):
            raise QuantizationError("a batch norm behind this layer is not trained", where=node.describe())
        if len(own) != 1 or (own[0].norm is not None) != folded:
            raise QuantizationError(
                "the weight of a product is not one parameter of the module, read once",
                where=node.describe(),
                got=f"@{layer.weight.name}",
                hint="give each layer a weight of its own",
            )
        found[node.name] = own[0]
    return found


def _read_by_others(source: torch.nn.Module, graph: Graph) -> frozenset[str]:
    """The parameters that nodes other than products read as they are."""
    shapes = {name: tuple(each.shape) for name, each in source.named_parameters()}
    found = set()
    for node in graph.nodes:
        layer = Weighted.of(node)
        of_layer = () if layer is None else (id(layer.weight), id(layer.bias))
        if BatchNorm.of(node) is not None:  # its statistics would not be trained
            continue
        for value in node.operands:
            if isinstance(value, Const) and id(value) not in of_layer and shapes.get(value.name) == value.data.shape:
                found.add(value.name)
    return frozenset(found)


def _check_all_trained(source: torch.nn.Module, layers: Mapping[str, _Layer], read: frozenset[str]) -> None:
    """Refuse parameters that no node would read while they are trained."""
    bound = set(read)
    for layer in layers.values():
        bound.update(name for name in (layer.weight, layer.bias) if name is not None)
        if layer.norm is not None:
            bound.update(f"{layer.norm}.{name}" for name in ("weight", "bias"))
    lost = [name for name, each in source.named_parameters() if each.requires_grad and name not in bound]
    if lost:
        raise QuantizationError(
            "parameters would not be trained",
            got=", ".join(lost[:5]),
            expected="parameters that nodes of the fused graph read, or batch norms of convolutions and linear layers",
            hint="requires_grad_(False) keeps a parameter as it is",
        )


def _check_checkpoint(module: torch.nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a checkpoint of another graph."""
    given = state.get(f"{prefix}{STATE}.graph")
    own = module.get_submodule(STATE).get_buffer("graph")
    if given is not None and not torch.equal(given.cpu(), own.cpu()):
        raise QuantizationError(
            "the checkpoint is of another graph",
            expected=bytes(own.tolist()).hex()[:16],
            got=bytes(given.tolist()).hex()[:16],
            hint="prepare the same module with the same qconfig and example inputs",
        )
