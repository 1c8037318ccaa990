"""Modules that torch.ao quantized in eager or FX mode, as torch.export can read them.

Their weights are packed for one of torch's engines, and the tensors between them are quantized: torch.export reads
neither. `readable` gives a copy of the module whose weights are plain codes, and which runs on `_Codes` in place of
quantized tensors: the real numbers that codes stand for, with their parameters. Each op computes on the real numbers
and rounds them to its parameters by ops of the namespace quantized_decomposed, as a program of PT2E does. The result is
the same graph of quantize, dequantize and float ops that such a program or a QDQ file gives.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcompiler.errors import TraceError

_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
_KEEP_PARAMS = frozenset(
    [
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "alias",
        "amax",
        "amin",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "boolean_dispatch",
        "channel_shuffle",
        "chunk",
        "clamp",
        "clip",
        "clone",
        "contiguous",
        "detach",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "expand",
        "expand_as",
        "flatten",
        "flip",
        "getitem",
        "hardtanh",
        "identity",
        "interpolate",
        "leaky_relu",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "mean",
        "moveaxis",
        "movedim",
        "narrow",
        "pad",
        "permute",
        "pixel_shuffle",
        "pixel_unshuffle",
        "relu",
        "relu6",
        "repeat",
        "repeat_interleave",
        "reshape",
        "reshape_as",
        "roll",
        "select",
        "split",
        "squeeze",
        "swapaxes",
        "t",
        "threshold",
        "tile",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "upsample",
        "upsample_bilinear",
        "upsample_nearest",
        "view",
        "view_as",
    ]
)
"""Functions of a quantized tensor whose result is rounded to the operand's parameters. Most select codes: theirs need
no rounding, and keep their bits in it."""
_FIXED = {"sigmoid": (1 / 256, 0), "hardsigmoid": (1 / 256, 0), "tanh": (2 / 256, 128)}
"""Functions whose quint8 result has parameters of its own: (scale, zero point)."""


def is_quantized_part(module: Any) -> bool:
    """Whether a module is one of torch.ao's quantized ones."""
    return type(module).__module__.startswith(_PACKAGES)


def has_mode(module: Any) -> bool:
    """Whether `training` may change what a module computes. Quantized modules and identities have no mode; theirs is
    what their class made it."""
    return not is_quantized_part(module) and type(module).__name__ != "Identity"


def is_eager_quantized(torch: Any, module: Any) -> bool:
    """Whether a part of a module is one of torch.ao's quantized modules, or calls torch.ops.quantized (FX)."""
    return any(is_quantized_part(part) or _quantizes(torch, part) for part in module.modules())


def _quantizes(torch: Any, module: Any) -> bool:
    if not isinstance(module, torch.fx.GraphModule):
        return False
    targets = {str(node.target) for node in module.graph.nodes if node.op == "call_function"}
    return any(target.startswith("quantized.") or "quantize_per_tensor" in target for target in targets)


def readable(torch: Any, module: Any) -> Any:
    """A copy of the module for torch.export, which shares its float weights. The module stays as it is.

    Raises:
        TraceError: packed weights that are not understood.
    """
    import torch.ao.quantization.fx._decomposed  # noqa: F401  registers the ops of quantized_decomposed

    found = _unpacked(torch, module, {})
    forward = type(found).forward
    if isinstance(found, torch.fx.GraphModule):  # torch.export would interpret its graph and not call it
        plain = type(type(module).__name__, (torch.nn.Module,), {})()
        vars(plain).update(vars(found))
        found = plain

    def run(*args: Any, **kwargs: Any) -> Any:
        with _quantizing(torch):
            return forward(found, *args, **kwargs)

    vars(found)["forward"] = functools.update_wrapper(run, module.forward)  # torch.export reads the signature
    return found


# -- weights


def _unpacked(torch: Any, module: Any, made: dict[int, Any]) -> Any:
    """A copy of a module and its parts, with `_Packed` in place of packed weights, and numbers in place of the buffers
    that hold scales and zero points."""
    if id(module) in made:
        return made[id(module)]
    found = copy.copy(module)
    made[id(module)] = found
    for name in ("_modules", "_buffers", "_parameters"):
        vars(found)[name] = dict(vars(module)[name])
    for name, value in list(vars(module).items()):
        if isinstance(value, torch.ScriptObject):
            del vars(found)[name]
            found._modules[name] = _packed(torch, value)
    for name in _numbers_of(torch, module):
        value = found._buffers.pop(name)
        vars(found)[name] = value.item()
    for name, part in module._modules.items():
        found._modules[name] = part if part is None else _unpacked(torch, part, made)
    return found


def _numbers_of(torch: Any, module: Any) -> list[str]:
    """The buffers of a module that hold one scale or zero point."""
    if is_quantized_part(module):
        return [name for name in ("scale", "zero_point") if module._buffers.get(name) is not None]
    if not _quantizes(torch, module):
        return []
    used = {
        argument.target
        for node in module.graph.nodes
        if node.op == "call_function"
        for argument in (*node.args[1:], *node.kwargs.values())
        if isinstance(argument, torch.fx.Node) and argument.op == "get_attr"
    }
    return [
        name for name, value in module._buffers.items() if name in used and value is not None and value.numel() == 1
    ]


def _packed(torch: Any, packed: Any) -> Any:
    """What a packed weight holds, as a module with buffers."""
    kind = packed._type().name()
    if kind.startswith("LinearPacked"):
        weight, bias = torch.ops.quantized.linear_unpack(packed)
        geometry: dict[str, Any] = {}
    elif kind.startswith("Conv"):
        weight, bias = packed.unpack()
        names = ("stride", "padding", "dilation", "output_padding")
        geometry = {name: tuple(getattr(packed, name)()) for name in names}
        geometry["groups"], geometry["transposed"] = packed.groups(), bool(packed.transpose())
    else:
        raise TraceError("packed weights of this kind are not supported", got=kind)
    if not weight.is_quantized or weight.dtype is not torch.qint8:
        raise TraceError("packed weights are qint8", got=f"{kind} of {weight.dtype}")

    class Packed(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", weight.int_repr())
            if weight.dim() == 4:  # a convolution of rank 1 is packed as one of rank 2
                self.register_buffer("line", weight.int_repr()[:, :, 0])
            self.register_buffer("bias", None if bias is None else bias.detach())
            self.axis: int | None = None
            if weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
                self.axis = weight.q_per_channel_axis()
                self.register_buffer("scales", weight.q_per_channel_scales().float())
                self.register_buffer("zero_points", weight.q_per_channel_zero_points())
            else:
                self.scales, self.zero_points = weight.q_scale(), weight.q_zero_point()
            self.geometry = geometry

        def real(self, rank: int) -> Any:
            """The weight as real numbers, of a linear layer (rank 0) or a convolution."""
            ops = torch.ops.quantized_decomposed
            codes, bounds = self.line if rank == 1 else self.weight, (-128, 127, torch.int8)
            if self.axis is None:
                return ops.dequantize_per_tensor(codes, self.scales, self.zero_points, *bounds)
            return ops.dequantize_per_channel(codes, self.scales, self.zero_points, self.axis, *bounds)

    return Packed()


# -- quantized tensors


@dataclass(frozen=True)
class _Params:
    """The parameters of a quantized tensor; dtype: torch.quint8, torch.qint8 or torch.qint32."""

    scale: float
    zero_point: int
    dtype: Any


class _Codes:
    """Stands for a quantized tensor: the real numbers of its codes, and its parameters."""

    def __init__(self, torch: Any, real: Any, params: _Params) -> None:
        self._torch, self._real, self._params = torch, real, params

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        codes = next(arg for arg in _flat(args, kwargs or {}) if isinstance(arg, _Codes))
        return call(codes._torch, func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._torch.Tensor, name)
        if callable(found):
            return lambda *args, **kwargs: call(self._torch, found, (self, *args), kwargs)
        return getattr(self._real, name)

    def __getitem__(self, index: Any) -> Any:
        return call(self._torch, self._torch.Tensor.__getitem__, (self, index), {})

    def __len__(self) -> int:
        return len(self._real)

    is_quantized = True

    @property
    def dtype(self) -> Any:
        return self._params.dtype


def _flat(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    found = []
    for arg in (*args, *kwargs.values()):
        found += list(arg) if isinstance(arg, (tuple, list)) else [arg]
    return found


def _rounded(torch: Any, real: Any, params: _Params) -> _Codes:
    """Real numbers, rounded to parameters."""
    kinds = {
        torch.quint8: (0, 255, torch.uint8),
        torch.qint8: (-128, 127, torch.int8),
        torch.qint32: (-(2**31), 2**31 - 1, torch.int32),
    }
    if params.dtype not in kinds:
        raise TraceError("quantized tensors of this type are not supported", got=str(params.dtype))
    given = (params.scale, params.zero_point, *kinds[params.dtype])
    ops = torch.ops.quantized_decomposed
    return _Codes(torch, ops.dequantize_per_tensor(ops.quantize_per_tensor(real, *given), *given), params)


def call(torch: Any, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a function of torch gives for arguments among which `_Codes` are.

    Raises:
        TraceError: a function that has no meaning here.
    """
    qualified = str(func) if str(func).startswith("quantized.") else ""
    name = qualified.split(".")[1] if qualified else getattr(func, "__name__", str(func)).strip("_")
    if qualified:
        meaning = _QUANTIZED.get(name)
        if meaning is None:
            raise TraceError(f"torch.ops.quantized.{name} is not supported")
        return meaning(torch, *args, **kwargs)
    if func is torch.quantize_per_tensor:
        return _quantize_per_tensor(torch, *args, **kwargs)
    if name == "dequantize":
        return args[0]._real
    if name in ("q_scale", "q_zero_point"):
        return getattr(args[0]._params, name.removeprefix("q_"))
    if name in ("size", "dim", "numel", "stride", "is_floating_point"):
        return func(args[0]._real, *args[1:], **kwargs)
    if name in ("cat", "concat", "stack"):
        return _cat(torch, *args, function=func, **kwargs)
    if name not in _KEEP_PARAMS and name not in _FIXED:
        raise TraceError(
            f"{name} of a quantized tensor is not supported", hint="quantize the float module here: qconfig='torch:x86'"
        )
    codes = next(arg for arg in _flat(args, kwargs) if isinstance(arg, _Codes))
    real = func(*(_real_of(arg) for arg in args), **{key: _real_of(arg) for key, arg in kwargs.items()})
    params = _Params(*_FIXED[name], codes._params.dtype) if name in _FIXED else codes._params
    if isinstance(real, (tuple, list)):
        return tuple(_rounded(torch, part, params) for part in real)
    return _rounded(torch, real, params)


def _real_of(arg: Any) -> Any:
    return arg._real if isinstance(arg, _Codes) else arg


def _quantize_per_tensor(torch: Any, x: Any, scale: Any, zero_point: Any, dtype: Any) -> _Codes:
    return _rounded(torch, x, _Params(float(scale), int(zero_point), dtype))


def _cat(torch: Any, tensors: Sequence[Any], *args: Any, function: Any, **kwargs: Any) -> _Codes:
    """torch.cat of quantized tensors rounds to the parameters of the first."""
    real = function([_real_of(each) for each in tensors], *args, **kwargs)
    return _rounded(torch, real, tensors[0]._params)


# -- torch.ops.quantized


def _product(rank: int, relu: bool = False) -> Callable[..., _Codes]:
    """A linear layer (rank 0) or a convolution."""

    def meaning(torch: Any, x: _Codes, packed: Any, scale: float, zero_point: int) -> _Codes:
        functional, geometry = torch.nn.functional, dict(packed.geometry)
        transposed = geometry.pop("transposed", False)
        if not transposed:
            geometry.pop("output_padding", None)
        name = f"conv{'_transpose' if transposed else ''}{rank}d" if rank else "linear"
        given = {key: value[-rank:] if isinstance(value, tuple) else value for key, value in geometry.items()}
        real = getattr(functional, name)(x._real, packed.real(rank), packed.bias, **given)
        real = torch.relu(real) if relu else real
        return _rounded(torch, real, _Params(float(scale), int(zero_point), x._params.dtype))

    return meaning


def _binary(function: str, relu: bool) -> Callable[..., _Codes]:
    def meaning(torch: Any, x: Any, y: Any, scale: Any = None, zero_point: Any = None) -> _Codes:
        if scale is None or not isinstance(y, _Codes):
            raise TraceError(f"quantized {function} with a number is not supported")
        real = getattr(torch, function)(x._real, y._real)
        real = torch.relu(real) if relu else real
        return _rounded(torch, real, _Params(float(scale), int(zero_point), x._params.dtype))

    return meaning


def _to_params(function: Callable[..., Any]) -> Callable[..., _Codes]:
    """An op whose last two arguments are the scale and zero point of its result."""

    def meaning(torch: Any, x: Any, *args: Any, **kwargs: Any) -> _Codes:
        *rest, scale, zero_point = (*args, *kwargs.values())
        params = _Params(float(scale), int(zero_point), x._params.dtype)
        return _rounded(torch, function(torch, x._real, *rest), params)

    return meaning


def _elu(name: str) -> Callable[..., _Codes]:
    def meaning(torch: Any, x: _Codes, scale: float, zero_point: int, alpha: float = 1.0) -> _Codes:
        real = getattr(torch.nn.functional, name)(x._real, alpha)
        return _rounded(torch, real, _Params(float(scale), int(zero_point), x._params.dtype))

    return meaning


def _quantized_cat(torch: Any, tensors: Sequence[Any], dim: int, scale: Any = None, zero_point: Any = None) -> _Codes:
    real, first = torch.cat([each._real for each in tensors], dim), tensors[0]._params
    if scale is None:
        return _rounded(torch, real, first)
    return _rounded(torch, real, _Params(float(scale), int(zero_point), first.dtype))


def _relu6(torch: Any, x: _Codes, *args: Any) -> _Codes:
    return _rounded(torch, torch.nn.functional.relu6(x._real), x._params)


def _dynamic(torch: Any, *args: Any, **kwargs: Any) -> Any:
    raise TraceError(
        "a dynamically quantized module is not supported",
        hint="give the float module; dynamic quantization of it is not there yet",
    )


_QUANTIZED: dict[str, Callable[..., Any]] = {
    "linear": _product(0),
    "linear_relu": _product(0, relu=True),
    **{f"conv{rank}d": _product(rank) for rank in (1, 2, 3)},
    **{f"conv{rank}d_relu": _product(rank, relu=True) for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": _product(rank) for rank in (1, 2, 3)},
    **{name: _binary(name, False) for name in ("add", "mul")},
    **{f"{name}_relu": _binary(name, True) for name in ("add", "mul")},
    "cat": _quantized_cat,
    "relu6": _relu6,
    "hardswish": _to_params(lambda torch, x: torch.nn.functional.hardswish(x)),
    "sigmoid": _to_params(lambda torch, x: torch.sigmoid(x)),
    "tanh": _to_params(lambda torch, x: torch.tanh(x)),
    "leaky_relu": _to_params(lambda torch, x, slope, inplace: torch.nn.functional.leaky_relu(x, slope)),
    "elu": _elu("elu"),
    "celu": _elu("celu"),
    "softmax": _to_params(lambda torch, x, dim: torch.softmax(x, dim)),
    "layer_norm": _to_params(
        lambda torch, x, shape, weight, bias, eps: torch.nn.functional.layer_norm(x, shape, weight, bias, eps)
    ),
    "group_norm": _to_params(
        lambda torch, x, groups, weight, bias, eps: torch.nn.functional.group_norm(x, groups, weight, bias, eps)
    ),
    "instance_norm": _to_params(
        lambda torch, x, weight, bias, eps: torch.nn.functional.instance_norm(x, weight=weight, bias=bias, eps=eps)
    ),
    **{
        name: _to_params(
            lambda torch, x, weight, bias, mean, var, eps: torch.nn.functional.batch_norm(
                x, mean, var, weight, bias, eps=eps
            )
        )
        for name in ("batch_norm1d", "batch_norm2d", "batch_norm3d", "batch_norm")
    },
    "prelu": _to_params(lambda torch, x, weight: torch.nn.functional.prelu(x, _real_of(weight))),
    **{name: _dynamic for name in ("linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16")},
}


def _quantizing(torch: Any) -> Any:
    """A context in which quantize_per_tensor and torch.ops.quantized have their meaning here."""

    class Quantizing(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            ours = str(func).startswith("quantized.") or func is torch.quantize_per_tensor
            if ours or any(isinstance(arg, _Codes) for arg in _flat(args, kwargs)):
                return call(torch, func, args, kwargs)
            return func(*args, **kwargs)

    return Quantizing()
