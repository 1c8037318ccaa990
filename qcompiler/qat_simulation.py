"""The observed graph as torch ops, computed for one training batch at a time.

Products, pools and fake quantization have forms of their own here, which torch differentiates well; all other ops are
those of `export/torch`. What of a node does not change from batch to batch is looked up once. Does not own the module
that is trained (`qat.py`) nor the rounding (`fake_quant.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from qcompiler.errors import QuantizationError
from qcompiler.export.torch.node import MOVES, REALS, NodeWriter, convolved, window_pads
from qcompiler.fake_quant import by_scale, fake_quantize, learned_fake_quantize, symmetric_scale
from qcompiler.ir import Const, Node, Value
from qcompiler.ops.conv import Conv
from qcompiler.ops.interfaces import TakesActivation, Weighted
from qcompiler.ops.linear import Linear
from qcompiler.ops.pool import MaxPool
from qcompiler.ops.quantized import Observe
from qcompiler.passes.insert_qdq import fixed_params
from qcompiler.quantization.choose_qparams import choose_qparams, symmetric_zero_point
from qcompiler.quantization.minmax import MovingAverage
from qcompiler.quantization.observers import make_observer, weight_params
from qcompiler.quantization.spec import QuantSpec

if TYPE_CHECKING:
    from qcompiler.qat import Setup

F = torch.nn.functional
Form = Callable[[], Any]


class Simulation:
    """Computes the observed graph. The writers of `export/torch` see it as their recorder."""

    def __init__(self, setup: Setup, state: Any) -> None:
        self.setup, self.state, self.graph = setup, state, setup.prepared.graph
        self._constants: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._tensors: dict[int, Any] = {}
        self._sizes: Mapping[str, int] = {}
        self._read = {name: _parameter(setup.source, name) for name in setup.read}
        self._forms = [(node, self._form(node)) for node in self.graph.nodes]
        self.device = torch.device("cpu")
        self.rounds = self.observes = self.trains_norms = self.learns = self.begins = False

    def run(self, inputs: tuple[torch.Tensor, ...], sizes: Mapping[str, int]) -> list[torch.Tensor]:
        """The graph's outputs for one batch. Ranges are updated as the schedule says.

        Raises:
            QuantizationError: NaN or Inf in an observed value, a weight, an output, or the gradient of an output.
        """
        step, schedule = int(self.state.steps), self.setup.schedule
        self.learns = step >= schedule.learn_scales
        self.rounds = step >= schedule.quantize
        self.observes = step < schedule.freeze_observers and not self.learns
        self.trains_norms = step < schedule.freeze_batch_norm
        self.device, self._sizes = inputs[0].device, sizes
        self._tensors = {id(value): each for value, each in zip(self.graph.inputs, inputs)}
        self.begins = self.learns and self.setup.begin_learning(self.state)
        try:
            for node, form in self._forms:
                made = form()
                if isinstance(made, tuple):
                    self._tensors.update((id(value), tensor) for value, tensor in zip(node.results, made))
                else:
                    self._tensors[id(node.results[0])] = made
            return [self._checked(value) for value in self.graph.outputs]
        finally:
            self._tensors = {}

    # -- what writers ask for

    def tensor(self, value: Value) -> Any:
        found = self._tensors.get(id(value))
        if found is not None:
            return found
        assert isinstance(value, Const)
        if value.name in self._read:
            module, name = self._read[value.name]
            return getattr(module, name)
        key = (id(value), self.device)
        if key not in self._constants:
            self._constants[key] = self.buffer(value.data)
        return self._constants[key]

    def buffer(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).reshape(array.shape).to(self.device)

    def size(self, name: str) -> int:
        return self._sizes[name]

    # -- how a node is computed

    def _form(self, node: Node) -> Form:
        observe, layer = Observe.of(node), Weighted.of(node)
        if observe is not None:
            return self._observe_form(observe)
        if layer is not None:
            return self._product_form(node, layer)
        writer = NodeWriter(self, node)  # type: ignore[arg-type]
        function = REALS.get(node.op) or MOVES.get(node.op)
        if function is None:
            raise QuantizationError("torch has no such op", where=node.describe())
        pool = MaxPool.of(node)
        if pool is not None and _even(window_pads(writer), pool.kernel):
            return self._max_pool_form(pool, [before for before, _ in window_pads(writer)])
        fused = TakesActivation.of(node)
        found, activation = function, "none" if fused is None else fused.activation
        return lambda: _again(found(writer), activation)

    def _max_pool_form(self, pool: MaxPool, padding: list[int]) -> Form:
        function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(pool.kernel) - 1]
        kernel, stride, dilation = list(pool.kernel), list(pool.stride), list(pool.dilation)
        return lambda: function(self.tensor(pool.x), kernel, stride, padding, dilation)

    def _observe_form(self, observe: Observe) -> Form:
        group, spec = observe.group, QuantSpec.parse(observe.spec_text)
        index, fixed = self.setup.groups[group], fixed_params(observe.x, spec)
        name, averaging = observe.x.name, averaging_constant(spec)

        def form() -> torch.Tensor:
            x: torch.Tensor = self.tensor(observe.x)
            if self.observes and x.numel():
                self._widen(x, index, averaging, name)
            if not self.rounds:
                return x
            if fixed is not None:
                return fake_quantize(x, fixed)
            if self.learns:
                if self.begins:
                    self.setup.fit_activation(self.state, group, x)
                scale, zero = self.setup.learned_activation(self.state, group)
                factor = _gradient_factor(x.numel() // max(1, x.shape[0] if x.dim() else 1), spec)
                return learned_fake_quantize(x, scale, zero, spec.qmin, spec.qmax, factor)
            params = choose_qparams(float(self.state.low[index]), float(self.state.high[index]), spec)
            scale = torch.full((), params.scale[0], device=x.device)
            return by_scale(x, scale, params.zero_point[0], spec.qmin, spec.qmax)

        return form

    def _widen(self, x: torch.Tensor, index: int, averaging: float | None, name: str) -> None:
        """Let a range follow the least and the largest element of a batch."""
        low, high = (each.to(torch.float32) for each in torch.aminmax(x.detach()))
        state = self.state
        if not bool(torch.isfinite(high - low)):
            raise QuantizationError("NaN or Inf in training", where=f"%{name}", hint="a lower learning rate")
        if bool(state.seen[index]) and averaging is None:
            low, high = torch.minimum(low, state.low[index]), torch.maximum(high, state.high[index])
        elif bool(state.seen[index]):
            low = state.low[index] + averaging * (low - state.low[index])
            high = state.high[index] + averaging * (high - state.high[index])
        state.low[index], state.high[index], state.seen[index] = low, high, True

    def _product_form(self, node: Node, layer: Weighted) -> Form:
        names, source = self.setup.layers[node.name], self.setup.source
        weight_module, weight_name = _parameter(source, names.weight)
        bias_module, bias_name = _parameter(source, names.bias) if names.bias is not None else (None, "")
        norm: Any = None if names.norm is None else source.get_submodule(names.norm)
        round_weight, compute = self._weight_form(node, layer), self._compute_form(node, layer)
        whole = not isinstance(layer, (Conv, Linear))  # its writer adds and clamps
        added, activation = None if whole else layer.added, layer.activation

        def form() -> torch.Tensor:
            weight = getattr(weight_module, weight_name)
            bias = None if bias_module is None else getattr(bias_module, bias_name)
            if norm is None:
                y = compute(round_weight(weight), bias)
            elif self.trains_norms and norm.training:
                y = self._trained_norm(norm, weight, bias, round_weight, compute)
            else:
                factor = norm_factor(norm)
                rounded = round_weight(weight * factor.reshape([-1] + [1] * (weight.dim() - 1)))
                shift = (-norm.running_mean if bias is None else bias - norm.running_mean) * factor
                y = compute(rounded, shift if norm.bias is None else shift + norm.bias)
            if whole:
                return _again(y, activation)
            return _activated(y if added is None else y + self.tensor(added), activation)

        return form

    @staticmethod
    def _trained_norm(norm: Any, weight: torch.Tensor, bias: Any, round_weight: Any, compute: Any) -> torch.Tensor:
        """The product with the folded weight rounded, unfolded again, and the batch norm by the batch's statistics."""
        factor = norm_factor(norm)
        along = [-1] + [1] * (weight.dim() - 1)
        rounded = round_weight(weight * factor.reshape(along))
        zero = factor == 0  # the folded weight of such a channel is 0, and says nothing of its inputs
        seen = rounded / torch.where(zero, 1.0, factor).reshape(along)
        return norm(compute(torch.where(zero.reshape(along), weight, seen), bias))

    def _compute_form(self, node: Node, layer: Weighted) -> Callable[[Any, Any], torch.Tensor]:
        """The product of a weight and a bias, without what is added or clamped."""
        x = layer.x
        if isinstance(layer, Linear):
            return lambda weight, bias: F.linear(self.tensor(x), weight, bias)
        if isinstance(layer, Conv) and _even(layer.padding):
            function = (F.conv1d, F.conv2d, F.conv3d)[len(layer.stride) - 1]
            options: tuple[Any, ...] = (list(layer.stride), [before for before, _ in layer.padding])
            options = *options, list(layer.dilation), layer.groups
            return lambda weight, bias: function(self.tensor(x), weight, bias, *options)
        if isinstance(layer, Conv):
            return lambda weight, bias: _biased(convolved(self.tensor(x), weight, layer), bias)
        writer, of_weight, of_bias = NodeWriter(self, node), layer.weight, layer.bias  # type: ignore[arg-type]

        def by_writer(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            self._tensors[id(of_weight)] = weight
            if of_bias is not None:
                self._tensors[id(of_bias)] = bias
            made: torch.Tensor = REALS[node.op](writer)
            return made

        return by_writer

    def _weight_form(self, node: Node, layer: Weighted) -> Callable[[torch.Tensor], torch.Tensor]:
        config = self.setup.prepared.configs.get(node.name)
        spec = None if config is None or Observe.of(layer.x.producer) is None else config.weight
        if spec is None:
            return lambda weight: weight
        made, name = spec, node.name
        axis = layer.quant.weight_axis if spec.per_channel else None
        fast = spec.symmetric and spec.observer == "minmax"
        zero = symmetric_zero_point(spec)

        def rounded(weight: torch.Tensor) -> torch.Tensor:
            if not self.rounds:
                return weight
            if self.learns:
                scale = self.setup.learned_weight(self.state, name)
                points = torch.full_like(scale, zero)
                factor = _gradient_factor(weight.numel() // scale.numel(), made)
                return learned_fake_quantize(weight, scale, points, made.qmin, made.qmax, factor)
            if fast:
                return by_scale(weight, symmetric_scale(weight, made, axis), zero, made.qmin, made.qmax)
            data = weight.detach().cpu().numpy()
            return fake_quantize(weight, weight_params(data, made, axis, f"%{layer.weight.name}"))

        return rounded

    # -- values that are not finite

    def _checked(self, value: Value) -> torch.Tensor:
        """An output. If it holds NaN or Inf, the first node that made one is named; so is a gradient of the kind."""
        y: torch.Tensor = self.tensor(value)
        if not y.is_floating_point():
            return y
        if not _is_finite(y):
            raise QuantizationError("NaN or Inf in training", where=self._first_not_finite(), hint=_HINT)
        if y.requires_grad:
            y.register_hook(lambda gradient: _check_gradient(gradient, value.name))  # type: ignore[no-untyped-call]
        return y

    def _first_not_finite(self) -> str:
        for value in self.graph.inputs:
            if not _is_finite(self._tensors[id(value)]):
                return f"the input %{value.name}"
        for name, parameter in self.setup.source.named_parameters():
            if not _is_finite(parameter):
                return f"the parameter {name}"
        for node in self.graph.nodes:
            if any(not _is_finite(self._tensors[id(value)]) for value in node.results):
                return f"{node.describe()}"
        return "the outputs"


_HINT = "a lower learning rate, or a look at the batch"


def averaging_constant(spec: QuantSpec) -> float | None:
    """How much a batch moves a range, by torch's default of MovingAverageMinMaxObserver; None for the observer minmax,
    whose range only grows."""
    observer = make_observer(spec)
    return (
        float(observer.constant) if isinstance(observer, MovingAverage) else None if spec.observer == "minmax" else 0.01
    )


def _is_finite(x: torch.Tensor) -> bool:
    return not x.is_floating_point() or bool(torch.isfinite(x.detach().sum())) or bool(torch.isfinite(x).all())


def _check_gradient(gradient: torch.Tensor, name: str) -> None:
    if not _is_finite(gradient):
        raise QuantizationError("the loss has a gradient of NaN or Inf", where=f"the output %{name}", hint=_HINT)


def _parameter(source: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    """The module of a parameter and the parameter's name there; it is read anew for each batch."""
    path, _, attribute = name.rpartition(".")
    return source.get_submodule(path), attribute


def norm_factor(norm: Any) -> torch.Tensor:
    factor = torch.rsqrt(norm.running_var + norm.eps)
    return factor if norm.weight is None else factor * norm.weight


def _gradient_factor(elements: int, spec: QuantSpec) -> float:
    """The gradient scale of LSQ (Esser et al. 2020, section 2.2)."""
    return float((max(1, elements) * (spec.qmax - symmetric_zero_point(spec))) ** -0.5)


def _biased(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return y if bias is None else y + bias.reshape([1, -1] + [1] * (y.dim() - 2))


def _activated(y: torch.Tensor, activation: str) -> torch.Tensor:
    """In place: nobody else reads the result of a product before it, nor does its gradient."""
    if activation == "relu":
        return torch.relu_(y)
    return F.relu6(y, inplace=True) if activation == "relu6" else y


def _again(made: Any, activation: str) -> Any:
    """Clamp anew, for torch's gradient of 0 at 0 and at 6."""
    if activation == "relu":
        return torch.relu(made)
    return F.relu6(made) if activation == "relu6" else made


def _even(padding: Any, kernel: Any = None) -> bool:
    """Whether torch's own functions take the padding: the same before and after, and at most half of a pool's
    kernel."""
    return all(before == after for before, after in padding) and (
        kernel is None or all(2 * pair[0] <= size for pair, size in zip(padding, kernel))
    )
