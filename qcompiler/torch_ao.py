"""The eager mode of torch.ao.quantization, under the same names: its programs run after a change of import.

    import qcompiler.torch_ao as quantization      # was: import torch.ao.quantization as quantization

    model.eval()
    model.qconfig = quantization.get_default_qconfig("x86")
    fused = quantization.fuse_modules(model, [["conv", "relu"]])
    prepared = quantization.prepare(fused)
    prepared(batch)                                # floats; what it reads becomes calibration data
    quantized = quantization.convert(prepared)     # a torch module around a compiled int8 program
    quantized(batch)

`qconfig` on a module is for it and all inside; None leaves a part in floats. The graph decides what is fused and where
codes begin and end, so `fuse_modules` only checks its names, and stubs are identities. `quantize_dynamic` needs no
data, and compiles at the first call. This module needs torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from qcompiler.compiler import CompiledModel, compile
from qcompiler.errors import QuantizationError, TraceError, nearest
from qcompiler.quantization.dynamic import check_torch_options, dynamic_rules, qconfig_of
from qcompiler.quantization.qconfig import QConfig, QConfigMapping, get_qconfig
from qcompiler.quantization.qconfig import get_default_qconfig as _default_qconfig

default_dynamic_qconfig = get_qconfig("torch:dynamic")
"""Weights have one scale, activations one range each, with torch's reduced range of codes, [0, 127]."""
per_channel_dynamic_qconfig = get_qconfig("torch:dynamic_per_channel")
"""The same with one scale for each output of a weight."""
float16_dynamic_qconfig = get_qconfig("dynamic:float16")
"""Weights are stored in 16 bits."""
float_qparams_weight_only_qconfig = get_qconfig("torch:embedding")
"""Tables of embeddings have rows of 8 bits, with a scale and a bias for each."""
float_qparams_weight_only_qconfig_4bit = get_qconfig("torch:embedding_4bit")
"""The same in 4 bits."""


def get_default_qconfig(backend: str | None = None) -> QConfig:
    """The backend's qconfig; without a name that of `torch.backends.quantized.engine`."""
    return _default_qconfig(torch.backends.quantized.engine if backend is None else backend)


# -- parts of models


class QuantStub(nn.Module):
    """Where codes begin, in torch's eager mode. Here it is an identity."""

    def __init__(self, qconfig: QConfig | str | None = None) -> None:
        super().__init__()
        if qconfig is not None:
            self.qconfig = qconfig

    def forward(self, x: Any) -> Any:
        return x


class DeQuantStub(QuantStub):
    """Where codes end, in torch's eager mode. Here it is an identity."""


class QuantWrapper(nn.Module):
    """A module between a QuantStub and a DeQuantStub."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.quant, self.dequant, self.module = QuantStub(), DeQuantStub(), module
        self.train(module.training)

    def forward(self, x: Any) -> Any:
        return self.dequant(self.module(self.quant(x)))


class FloatFunctional(nn.Module):
    """Functions of two tensors as methods of a module, as torch's eager mode wants them."""

    def forward(self, x: Any) -> Any:
        raise TraceError("a FloatFunctional is not called", hint="call its method: add, mul, cat, add_relu, matmul")

    def add(self, x: Any, y: Any) -> Any:
        return torch.add(x, y)

    def add_scalar(self, x: Any, y: float) -> Any:
        return torch.add(x, y)

    def mul(self, x: Any, y: Any) -> Any:
        return torch.mul(x, y)

    def mul_scalar(self, x: Any, y: float) -> Any:
        return torch.mul(x, y)

    def cat(self, x: Sequence[Any], dim: int = 0) -> Any:
        return torch.cat(list(x), dim)

    def add_relu(self, x: Any, y: Any) -> Any:
        return torch.relu(torch.add(x, y))

    def matmul(self, x: Any, y: Any) -> Any:
        return torch.matmul(x, y)


# -- the workflow


def fuse_modules(
    model: nn.Module, modules_to_fuse: Sequence[str] | Sequence[Sequence[str]], inplace: bool = False
) -> nn.Module:
    """A copy of the model, or with `inplace` the model. Nothing changes in it: the compiler fuses by the graph.

    Raises:
        QuantizationError: a name is none of a module, or the model is in training mode.
    """
    _check_model("fuse_modules", model)
    known = dict(model.named_modules())
    for group in modules_to_fuse:
        for name in [group] if isinstance(group, str) else group:
            if name not in known:
                raise QuantizationError(f"fuse_modules: there is no module {name!r}", hint=nearest(name, list(known)))
    return model if inplace else copy.deepcopy(model)


class PreparedModule(nn.Module):
    """A float module that keeps what it is called with: the data for `convert`.

    Attributes:
        module: the float module.
        rules: what its modules' `qconfig` attributes make, a mapping.
        calls: the arguments of each call, by position or by name.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.rules = _rules(module)
        self.calls: list[Any] = []
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if args and kwargs:
            raise QuantizationError("a prepared module takes its inputs all by position, or all by name")
        self.calls.append(pytree.tree_map(_kept, kwargs or args))
        with torch.no_grad():
            return self.module(*args, **kwargs)


class QuantizedModule(nn.Module):
    """A compiled program that takes and gives torch tensors.

    Attributes:
        compiled: the program, to be saved, drawn, or called with numpy arrays.
    """

    def __init__(self, compiled: CompiledModel | None) -> None:
        super().__init__()
        self.compiled = compiled
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.compiled is None:
            raise QuantizationError("the module is not compiled yet")
        arrays = pytree.tree_map(lambda item: item.detach().numpy() if isinstance(item, torch.Tensor) else item, args)
        named = {name: item.detach().numpy() for name, item in kwargs.items()}
        return pytree.tree_map(torch.from_numpy, self.compiled(*arrays, **named))


class DynamicallyQuantizedModule(QuantizedModule):
    """A QuantizedModule that is compiled for its first call, unless that happened before.

    Attributes:
        module, rules: the float module, and the qconfigs of its layers.
        compiled: the program, None until there is one.
    """

    def __init__(self, module: nn.Module, rules: QConfigMapping) -> None:
        super().__init__(None)
        self.module, self.rules = module, rules

    def compile_for(self, inputs: Any, dynamic: Any = None) -> None:
        """Compile for inputs like these: a tensor, a tuple by position, or a dict by name."""
        self.compiled = compile(self.module, self.rules, inputs, dynamic=dynamic)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.compiled is None:
            if args and kwargs:
                raise QuantizationError("the first call takes its inputs all by position, or all by name")
            first = kwargs or args
            self.compile_for(first, _open_first_axis(first))
        return super().forward(*args, **kwargs)


def prepare(model: nn.Module, inplace: bool = False) -> PreparedModule:
    """A module that computes as `model` does and keeps what it is called with.

    Raises:
        QuantizationError: no module has a `qconfig`, or one that is not of qcompiler; training mode; `inplace`.
    """
    _check_model("prepare", model)
    if inplace:
        raise QuantizationError("prepare can't change a module in place", hint="prepared = prepare(model)")
    return PreparedModule(copy.deepcopy(model))


def convert(module: nn.Module, inplace: bool = False) -> QuantizedModule:
    """Quantize and compile a prepared module with the data of its calls, for this machine. The first axis of all inputs
    is open if it has one size in each call.

    Raises:
        QuantizationError: not a prepared module, one that was not called, or `inplace`.
    """
    if not isinstance(module, PreparedModule):
        raise QuantizationError("convert takes what prepare gives", got=type(module).__name__, hint="prepare(model)")
    if inplace:
        raise QuantizationError("convert can't change a module in place", hint="quantized = convert(prepared)")
    if not module.calls:
        raise QuantizationError("the prepared module has seen no data", hint="call it with a few batches first")
    first = module.calls[0]
    dynamic = _open_first_axis(first)
    return QuantizedModule(compile(module.module, module.rules, first, calibration_data=module.calls, dynamic=dynamic))


def _open_first_axis(inputs: Any) -> Any:
    """The `dynamic` of compile() that opens the first axis of all inputs; None if their sizes differ there."""
    sizes = {tuple(t.shape[:1]) for t in pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor)}
    keys = list(inputs) if isinstance(inputs, dict) else range(len(inputs))
    return {key: {0: "batch"} for key in keys} if len(sizes) == 1 and sizes != {()} else None


def quantize(
    model: nn.Module, run_fn: Callable[..., Any], run_args: Sequence[Any] = (), inplace: bool = False
) -> QuantizedModule:
    """prepare, run_fn(prepared, *run_args), convert."""
    prepared = prepare(model, inplace)
    run_fn(prepared, *run_args)
    return convert(prepared)


def quantize_dynamic(
    model: nn.Module,
    qconfig_spec: Any = None,
    dtype: Any = torch.qint8,
    mapping: Any = None,
    inplace: bool = False,
    *,
    example_inputs: Any = None,
    dynamic: Any = None,
) -> nn.Module:
    """torch's dynamic quantization: a torch module around a compiled program, with torch's numbers.

    Args:
        qconfig_spec: a set of classes and of modules' names, or a dict from these to qconfigs; by default all layers
            that can be quantized.
        dtype: torch.qint8 (`default_dynamic_qconfig`), torch.float16 (`float16_dynamic_qconfig`), torch.quint8
            (`float_qparams_weight_only_qconfig`) or torch.quint4x2 (`float_qparams_weight_only_qconfig_4bit`), for
            classes and names without a qconfig of their own.
        example_inputs, dynamic: as for `qcompiler.compile`. Without examples the first call compiles, for its sizes,
            and the first axis of all inputs is open if they have one size there.

    Raises:
        QuantizationError: training mode, `inplace`, `mapping`, another dtype, a name that matches no module.
    """
    _check_model("quantize_dynamic", model)
    check_torch_options(mapping, inplace)
    if dynamic is not None and example_inputs is None:
        raise QuantizationError(
            "dynamic names axes of example inputs", hint="quantize_dynamic(..., example_inputs=...)"
        )
    ours = qconfig_of(dtype)
    rules = dynamic_rules(qconfig_spec, default_dynamic_qconfig if ours == "dynamic" else get_qconfig(ours))
    module = DynamicallyQuantizedModule(copy.deepcopy(model), rules)
    if example_inputs is not None:
        module.compile_for(example_inputs, dynamic)
    return module


def prepare_qat(model: nn.Module, mapping: Any = None, inplace: bool = False) -> nn.Module:
    """torch's quantization-aware training, which qcompiler does not have yet."""
    raise QuantizationError("quantization-aware training is not there yet", hint="model.eval(), prepare(model)")


def _check_model(what: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise QuantizationError(f"{what} takes a torch.nn.Module", got=type(model).__name__)
    if model.training:
        raise QuantizationError(f"{what}: the model is in training mode", hint="model.eval()")


def _rules(model: nn.Module) -> QConfigMapping:
    """The rules that `qconfig` attributes make: the root's for all, those of other modules for what is inside."""
    rules = QConfigMapping()
    found = False
    for path, part in model.named_modules():
        if "qconfig" not in vars(part) or isinstance(part, QuantStub):
            continue
        given = part.qconfig
        if given is not None and not isinstance(given, (QConfig, str)):
            raise QuantizationError(
                f"the qconfig of {path or 'the model'!r} is not one of qcompiler",
                got=f"{type(given).__module__}.{type(given).__name__}",
                hint='qcompiler.torch_ao.get_default_qconfig("x86")',
            )
        found |= given is not None
        if path:
            rules.set_module_name(path, given)
        else:
            rules.set_global(given)
    if not found:
        raise QuantizationError(
            "no module has a qconfig", hint='model.qconfig = get_default_qconfig("x86"), before prepare'
        )
    return rules


def _kept(item: Any) -> Any:
    return item.detach().clone() if isinstance(item, torch.Tensor) else item
