"""Quantization-aware training in torch: `prepare_qat`.

A module is traced and fused to the observed graph that static quantization makes of it, and trained by playing that
graph in torch: weights and observed values are rounded by the rules of qmath, and gradients pass straight through. In
evaluation the module runs the very program that `QatModule.convert` gives, on codes. Does not own the passes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from qcompiler.arguments import check_type
from qcompiler.dims import Dim, Dynamic
from qcompiler.errors import InputError, QuantizationError
from qcompiler.export.torch.codes import activated
from qcompiler.export.torch.module import to_torch
from qcompiler.export.torch.node import MOVES, REALS, NodeWriter, convolved
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.ops.conv import Conv
from qcompiler.ops.interfaces import TakesActivation, Weighted
from qcompiler.ops.linear import Linear
from qcompiler.ops.norm import BatchNorm
from qcompiler.ops.quantized import Observe
from qcompiler.passes.insert_qdq import fixed_params
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.observers import Observer, weight_params
from qcompiler.quantization.qconfig import QConfig, QConfigMapping, get_default_qconfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.quantization.workflow import Prepared, convert, prepare
from qcompiler.types import QuantParams

STATE = "qat_state"
"""The name of the submodule that holds what training adds: ranges, the count of steps, and a digest of the graph."""
AVERAGING = 0.01
"""How much a batch moves a range, as in torch's MovingAverageMinMaxObserver."""


@dataclass(frozen=True)
class QatSchedule:
    """At which training step, counted from 0 by calls of forward in training mode, a phase begins.

    Attributes:
        quantize: values and weights are rounded from here on. Before it ranges are only observed.
        freeze_observers: ranges stay as they are.
        freeze_batch_norm: batch norms use their running statistics, which stay as they are.

    Raises:
        QuantizationError: a step below 0, or no step at which ranges are observed.
    """

    quantize: int = 0
    freeze_observers: int = 2**62
    freeze_batch_norm: int = 2**62

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            check_type(field.name, value, int, "a number of training steps")
            if value < 0:
                raise QuantizationError("a training step", where=field.name, expected="at least 0", got=value)
        if self.freeze_observers == 0:
            raise QuantizationError("no range is ever observed", where="freeze_observers", expected="at least 1", got=0)


@dataclass(frozen=True)
class _Layer:
    """The names of the parameters of one product, and of the module that is the batch norm behind it."""

    weight: str
    bias: str | None
    norm: str | None


class _Range:
    """An observer that gives the range which training has found."""

    def __init__(self, low: float, high: float, spec: QuantSpec) -> None:
        self._params = choose_qparams(np.float32(low), np.float32(high), spec)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        raise QuantizationError("a trained range observes nothing")

    def merge(self, other: Observer) -> None:
        raise QuantizationError("trained ranges cannot merge")

    def qparams(self) -> QuantParams:
        return self._params


class _Rounded(torch.autograd.Function):
    """dequantize(quantize(x)) by rules (1) and (2) of qmath. The gradient passes where x lies within the range."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        units = x / scale
        ctx.save_for_backward((units >= low - 0.5) & (units <= high + 0.5))
        return torch.round(torch.minimum(torch.maximum(units, low), high)) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def fake_quantize(x: torch.Tensor, params: QuantParams) -> torch.Tensor:
    """`qmath.fake_quantize` of a float32 tensor of any shape, in the same shape, with a straight-through gradient: 1
    within half a step of the range, 0 outside (Bengio et al. 2013; Jacob et al. 2018)."""
    scale, points = (torch.from_numpy(np.array(each)).to(x.device) for each in params.along(x.dim()))
    low, high = ((bound - points).to(torch.float32) for bound in (params.qmin, params.qmax))
    return _Rounded.apply(x, scale, low, high)  # type: ignore[no-untyped-call]


class QatModule(torch.nn.Module):
    """A module in training with rounded weights and activations. `prepare_qat` makes it.

    The parameters, buffers and submodules are those of the user's module, under the same names. What training adds is
    in the submodule `qat_state`.
    """

    qat_state: Any
    _source: Any

    def __init__(
        self,
        module: torch.nn.Module,
        prepared: Prepared,
        layers: Mapping[str, _Layer],
        schedule: QatSchedule,
        settings: tuple[Any, ...],
    ) -> None:
        super().__init__()
        self.__dict__["_source"] = module
        self.__dict__["_parameters"], self.__dict__["_buffers"] = module._parameters, module._buffers
        self._modules.update(module._modules)
        self.prepared, self.schedule = prepared, schedule
        self._layers, self._settings = dict(layers), settings
        self._groups = {group: index for index, group in enumerate(prepared.specs())}
        self._evaluated: tuple[Any, torch.nn.Module] | None = None
        state = torch.nn.Module()
        state.register_buffer("low", torch.zeros(len(self._groups)))
        state.register_buffer("high", torch.zeros(len(self._groups)))
        state.register_buffer("seen", torch.zeros(len(self._groups), dtype=torch.bool))
        state.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        digest = hashlib.sha256(str(prepared.graph).encode()).digest()
        state.register_buffer("graph", torch.frombuffer(bytearray(digest), dtype=torch.uint8).clone())
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
        player = _Player(self, inputs, sizes)
        outputs = tuple(player.tensor(value) for value in player.run())
        self.qat_state.steps += 1
        return outputs[0] if len(outputs) == 1 else outputs

    def convert(self) -> Graph:
        """The integer graph of the present weights and ranges, which evaluation computes to the bit. Nothing of the
        module changes.

        Raises:
            QuantizationError: a value was never observed, or the weights give another graph than at the beginning.
        """
        prepared = _prepared(self._source, *self._settings)
        if prepared.members() != self.prepared.members():
            raise QuantizationError(
                "the trained weights give a graph with other values to observe than prepare_qat found",
                got=", ".join(sorted(set(prepared.members()) ^ set(self.prepared.members()))[:5]),
            )
        params = self.qat_state
        missing = [group for group, index in self._groups.items() if not bool(params.seen[index])]
        if missing:
            raise QuantizationError(
                "no range was observed",
                where=", ".join(f"%{group}" for group in missing[:5]) + (", ..." if len(missing) > 5 else ""),
                expected="at least one step in training mode",
                hint="model.train(), and call the model on a batch",
            )
        specs = prepared.specs()
        ranges = {
            group: _Range(float(params.low[index]), float(params.high[index]), specs[group])
            for group, index in self._groups.items()
        }
        return convert(prepared, ranges)

    def _checked(self, inputs: tuple[torch.Tensor, ...]) -> dict[str, int]:
        """The sizes that the inputs give to the graph's symbols."""
        declared = self.prepared.graph.inputs
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
        if self._evaluated is None or self._evaluated[0] != key:
            self._evaluated = key, to_torch(self.convert()).to(tensors[0].device)
        return self._evaluated[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_evaluated": None}


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
            QConfig with mixed_precision=False and equalize=False. Of its observers that of weights is used;
            ranges of activations are moving averages of minima and maxima.
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
    settings = qconfig, example_inputs, dynamic
    source = copy.deepcopy(module)
    prepared = _prepared(source, *settings)
    for name, config in prepared.configs.items():
        if config is not None and (config.mixed_precision or config.equalize):
            raise QuantizationError(
                "training cannot simulate what conversion chooses from calibration data",
                where=f"%{name}",
                expected="a QConfig with mixed_precision=False and equalize=False",
                hint='"int8:plain"',
            )
    return QatModule(source, prepared, _layers(source, prepared.graph, settings), schedule, settings)


def get_default_qat_qconfig(backend: str = "x86") -> QConfig:
    """torch's get_default_qat_qconfig of torch 2.13: what `get_default_qconfig` says, with moving averages as ranges.

    torch averages the ranges of weights too; here a weight has the range of its present numbers, as in deployment.

    Raises:
        QuantizationError: unknown backend (nearest given).
    """
    static = get_default_qconfig(backend)
    assert static.activation is not None
    return replace(static, activation=replace(static.activation, observer="moving_average"))


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
    bound: set[str] = set()
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
        bound.update(name for name in (own[0].weight, own[0].bias) if name is not None)
        if own[0].norm is not None:
            bound.update(f"{own[0].norm}.{name}" for name in ("weight", "bias"))
    lost = [name for name, each in parameters.items() if each.requires_grad and name not in bound]
    if lost:
        raise QuantizationError(
            "parameters would not be trained",
            got=", ".join(lost[:5]),
            expected="weights, biases and batch norms of convolutions and linear layers",
            hint="requires_grad_(False) keeps a parameter as it is",
        )
    return found


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


class _Player:
    """Computes the observed graph for one batch. The writers of `export/torch` see it as their recorder."""

    def __init__(self, module: QatModule, inputs: tuple[torch.Tensor, ...], sizes: Mapping[str, int]) -> None:
        self.module, self.state, self._sizes = module, module.qat_state, sizes
        self.graph = module.prepared.graph
        step, schedule = int(self.state.steps), module.schedule
        self.rounds = step >= schedule.quantize
        self.observes = step < schedule.freeze_observers
        self.trains_norms = step < schedule.freeze_batch_norm
        self.device = next(iter(inputs)).device
        self._tensors: dict[int, Any] = {id(value): each for value, each in zip(self.graph.inputs, inputs)}

    def tensor(self, value: Value) -> Any:
        if id(value) not in self._tensors:
            assert isinstance(value, Const)
            self._tensors[id(value)] = self.buffer(value.data)
        return self._tensors[id(value)]

    def buffer(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).reshape(array.shape).to(self.device)

    def size(self, name: str) -> int:
        return self._sizes[name]

    def run(self) -> list[Value]:
        """Compute all nodes. Returns the graph's outputs."""
        for node in self.graph.nodes:
            observe, layer = Observe.of(node), Weighted.of(node)
            if observe is not None:
                made = self._observed(observe)
            elif layer is not None:
                made = self._product(node, layer)
            else:
                writer = REALS.get(node.op) or MOVES.get(node.op)
                if writer is None:
                    raise QuantizationError("torch has no such op", where=node.describe())
                made = writer(NodeWriter(self, node))  # type: ignore[arg-type]
            fused = TakesActivation.of(node)
            if fused is not None and fused.activation != "none":  # again, for torch's gradient of 0 at 0 and at 6
                made = torch.relu(made) if fused.activation == "relu" else torch.nn.functional.relu6(made)
            results = made if isinstance(made, tuple) else (made,)
            self._tensors.update((id(value), tensor) for value, tensor in zip(node.results, results))
        return list(self.graph.outputs)

    def _observed(self, observe: Observe) -> torch.Tensor:
        x, group = self.tensor(observe.x), observe.group
        state, index, spec = self.state, self.module._groups[group], QuantSpec.parse(observe.spec_text)
        if self.observes and x.numel():
            low, high = (each.to(torch.float32) for each in torch.aminmax(x.detach()))
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                raise QuantizationError(
                    "NaN or Inf in training", where=f"%{observe.x.name}", hint="a lower learning rate"
                )
            if bool(state.seen[index]):
                low = state.low[index] + AVERAGING * (low - state.low[index])
                high = state.high[index] + AVERAGING * (high - state.high[index])
            state.low[index], state.high[index], state.seen[index] = low, high, True
        if not self.rounds:
            return x
        params = fixed_params(observe.x, spec)
        if params is None:
            params = choose_qparams(state.low[index].cpu().numpy(), state.high[index].cpu().numpy(), spec)
        return fake_quantize(x, params)

    def _product(self, node: Node, layer: Weighted) -> torch.Tensor:
        names, source = self.module._layers[node.name], self.module._source
        weight = source.get_parameter(names.weight)
        bias = None if names.bias is None else source.get_parameter(names.bias)
        if names.norm is None:
            return self._plain(node, layer, self._weight(node, layer, weight), bias)
        norm: Any = source.get_submodule(names.norm)
        factor = torch.rsqrt(norm.running_var + norm.eps)
        factor = factor if norm.weight is None else factor * norm.weight
        along = [-1] + [1] * (weight.dim() - 1)
        rounded = self._weight(node, layer, weight * factor.reshape(along))
        if not (self.trains_norms and norm.training):
            shift = (-norm.running_mean if bias is None else bias - norm.running_mean) * factor
            return self._plain(node, layer, rounded, shift if norm.bias is None else shift + norm.bias)
        zero = (factor == 0).reshape(along)  # the folded weight of such a channel is 0, and says nothing of its inputs
        seen = torch.where(zero, weight, rounded / torch.where(factor == 0, 1.0, factor).reshape(along))
        x = self.tensor(layer.x)
        y = convolved(x, seen, layer) if isinstance(layer, Conv) else torch.nn.functional.linear(x, seen)
        y = norm(y if bias is None else y + bias.reshape([1, -1] + [1] * (y.dim() - 2)))
        return activated(y if layer.added is None else y + self.tensor(layer.added), layer.activation)

    def _plain(self, node: Node, layer: Weighted, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The product by its own writer, with these tensors in place of the constants."""
        self._tensors[id(layer.weight)] = weight
        if layer.bias is not None:
            self._tensors[id(layer.bias)] = bias
        made: torch.Tensor = REALS[node.op](NodeWriter(self, node))  # type: ignore[arg-type]
        return made

    def _weight(self, node: Node, layer: Weighted, weight: torch.Tensor) -> torch.Tensor:
        config = self.module.prepared.configs.get(node.name)
        if not self.rounds or Observe.of(layer.x.producer) is None or config is None or config.weight is None:
            return weight
        data = weight.detach().cpu().numpy()
        axis = layer.quant.weight_axis if config.weight.per_channel else None
        return fake_quantize(weight, weight_params(data, config.weight, axis, f"%{layer.weight.name}"))
