"""What every exported script shares: types, constants, inputs, and the evaluation of one node.

`bundle.py` copies from here the definitions that a script uses, in place of qcompiler's own types, which also check
graphs. So this module imports nothing but numpy and the standard library. The evaluation of a node is that of
`qcompiler/interpreter.py`.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class GraphError(Exception):
    """The graph cannot run on these inputs, or its file of constants is not the one that it was written with."""

    def __init__(self, message: str, **details: object) -> None:
        lines = [f"  {name}: {value}" for name, value in details.items() if value is not None]
        super().__init__("\n".join([message, *lines]))


class Op:
    """The attributes of one node, which the methods of its op read."""

    def __init__(self, **attrs: Any) -> None:
        self.__dict__.update(attrs)


class Dim:
    """A size that is not known. Every size of a running graph is."""


class DType(enum.Enum):
    """Element types."""

    F32 = "f32"
    F16 = "f16"
    F64 = "f64"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    I4 = "i4"
    U4 = "u4"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type of one element; 4-bit types are held one to a byte."""
        return np.dtype(_NUMPY[self.value])

    @property
    def bits(self) -> int:
        return 8 if self is DType.BOOL else int(self.value[1:])

    @property
    def is_float(self) -> bool:
        return self.value.startswith("f")

    @property
    def is_integer(self) -> bool:
        return not self.is_float and self is not DType.BOOL

    @property
    def min(self) -> int:
        return 0 if self.value.startswith("u") else -(1 << (self.bits - 1))

    @property
    def max(self) -> int:
        return (1 << self.bits) - 1 if self.value.startswith("u") else (1 << (self.bits - 1)) - 1


_NUMPY = {
    "f32": np.float32,
    "f16": np.float16,
    "f64": np.float64,
    "i64": np.int64,
    "i32": np.int32,
    "i16": np.int16,
    "i8": np.int8,
    "u8": np.uint8,
    "i4": np.int8,
    "u4": np.uint8,
    "bool": np.bool_,
}


class QuantParams(NamedTuple):
    """real = scale * (q - zero_point), with q in [qmin, qmax]; one scale, or one for each channel along `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None
    qmin: int
    qmax: int

    @property
    def scales(self) -> np.ndarray:
        """float32[n]"""
        return np.array(self.scale, np.float32)

    @property
    def zero_points(self) -> np.ndarray:
        """int32[n]"""
        return np.array(self.zero_point, np.int32)

    def along(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """(scales, zero_points) shaped to broadcast against a tensor of this rank."""
        if self.axis is None:
            return self.scales.reshape(()), self.zero_points.reshape(())
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scales.reshape(shape), self.zero_points.reshape(shape)


class TensorType(NamedTuple):
    """Element type, shape and, for codes, quantization parameters."""

    dtype: DType
    shape: tuple[int, ...]
    quant: QuantParams | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def params(self) -> QuantParams:
        if self.quant is None:
            raise GraphError(f"{self.dtype.value} has no quantization parameters")
        return self.quant

    @property
    def is_quantized(self) -> bool:
        return self.quant is not None


class TypedArray(NamedTuple):
    """An array and its type: codes if the type has quantization parameters, else plain numbers."""

    array: np.ndarray
    type: TensorType

    @property
    def quant(self) -> QuantParams:
        return self.type.params

    @property
    def scales(self) -> np.ndarray:
        """f32 [1], or [channels] for parameters per channel."""
        return self.quant.scales

    def real(self) -> np.ndarray:
        """f32: the real numbers that the codes stand for, or the array itself."""
        if not self.type.is_quantized:
            return self.array
        scale, zero_point = self.quant.along(self.array.ndim)
        exact = np.int32 if self.array.dtype.itemsize <= 2 else np.int64
        return (self.array.astype(exact) - np.asarray(zero_point, exact)).astype(np.float32) * scale

    def centered(self) -> np.ndarray:
        """i32: the codes minus their zero points."""
        return self.array.astype(np.int32) - self.quant.along(self.array.ndim)[1]


def of_type(dtype: DType) -> Callable[..., TensorType]:
    """The maker of types of one element type: `u8(B, 3, scale=0.02, zero_point=114)` is a type of codes."""

    def make(
        *shape: int,
        scale: float | np.ndarray | None = None,
        zero_point: int | np.ndarray = 0,
        axis: int | None = None,
        qmin: int | None = None,
        qmax: int | None = None,
    ) -> TensorType:
        if scale is None:
            return TensorType(dtype, shape)
        scales = np.asarray(scale, np.float32).reshape(-1)
        points = np.broadcast_to(np.asarray(zero_point), scales.shape)
        low, high = dtype.min if qmin is None else qmin, dtype.max if qmax is None else qmax
        quant = QuantParams(tuple(map(float, scales)), tuple(map(int, points)), axis, low, high)
        return TensorType(dtype, shape, quant)

    return make


# -- constants


_STORED = {
    "F32": np.float32,
    "F16": np.float16,
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_arrays(path: str, digest: str) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name. GraphError if its bytes are not those of the digest (SHA-256)."""
    with open(path, "rb") as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != digest:
        raise GraphError(f"{path} is not the file of constants that this script was written with")
    size = int.from_bytes(data[:8], "little")
    header, start = json.loads(data[8 : 8 + size]), 8 + size
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        dtype = np.dtype(_STORED[entry["dtype"]]).newbyteorder("<")
        array = np.frombuffer(data, dtype, (last - first) // dtype.itemsize, start + first)
        arrays[name] = array.astype(dtype.newbyteorder("="), copy=False).reshape(entry["shape"])
    return arrays


# -- the call


def bind(inputs: Mapping[str, Any], name: str, type: TensorType, sizes: dict[str, int]) -> TypedArray:
    """An input of the call. A size of the type that is a text is a name, which the input binds in `sizes`."""
    if name not in inputs:
        raise GraphError(f"the input {name!r} is missing", got=", ".join(map(repr, inputs)))
    array = np.asarray(inputs[name])
    expected = f"{type.dtype.value}[{', '.join(map(str, type.shape))}]"
    got = f"{array.dtype}{list(array.shape)}"
    if array.dtype != type.dtype.numpy or array.ndim != type.rank:
        raise GraphError(f"the input {name!r} has another type", expected=expected, got=got)
    for size, found in zip(type.shape, array.shape):
        if (sizes.setdefault(size, found) if isinstance(size, str) else size) not in (found, None):
            raise GraphError(f"the input {name!r} has another shape", expected=expected, got=got, sizes=sizes)
    return TypedArray(array, TensorType(type.dtype, array.shape, type.quant))


def check(holds: bool, what: str) -> None:
    """GraphError unless the sizes of the call obey a relation."""
    if not holds:
        raise GraphError("the graph does not take these sizes", expected=what)


def _typed(array: np.ndarray, out: TensorType) -> TypedArray:
    if array.shape != out.shape:
        raise GraphError("these sizes do not fit the graph", expected=out.shape, got=array.shape)
    return TypedArray(array, TensorType(out.dtype, array.shape, out.quant))


def real(op: type[Any], *operands: TypedArray | None, out: Any, **attrs: Any) -> Any:
    """A node on real numbers and plain integers. `out`: the type of its result, or a tuple of those of all."""
    with np.errstate(all="ignore"):
        found = op(**attrs).reference(*(None if x is None else x.array for x in operands))
    if isinstance(out, TensorType):
        return _typed(np.asarray(found, out.dtype.numpy), out)
    return tuple(_typed(np.asarray(array, type.dtype.numpy), type) for array, type in zip(found, out))


def moved(op: type[Any], *operands: TypedArray | None, out: TensorType, **attrs: Any) -> TypedArray:
    """A node that moves codes, whose parameters stay the same."""
    with np.errstate(all="ignore"):
        return _typed(op(**attrs).reference(*(None if x is None else x.array for x in operands)), out)


def integer(op: type[Any], *operands: TypedArray | None, out: TensorType, **attrs: Any) -> TypedArray:
    """A node that computes on codes. `out` has the parameters of its result, or is real."""
    with np.errstate(all="ignore"):
        return _typed(op(**attrs).integer(*operands, out=out), out)


def table(op: type[Any], x: TypedArray, *, out: TensorType, **attrs: Any) -> TypedArray:
    """A function of one code of 8 bits, made in float64 and rounded once."""
    source = x.type
    codes = np.arange(source.dtype.min, source.dtype.max + 1, dtype=np.int64)
    reals = (codes - source.params.zero_point[0]).astype(np.float64) * np.float64(source.params.scale[0])
    quant = out.params
    with np.errstate(all="ignore"):
        value = np.asarray(op(**attrs).reference(reals), np.float64) / np.float64(quant.scale[0])
    low, high = quant.qmin - quant.zero_point[0], quant.qmax - quant.zero_point[0]
    clamped = np.where(value > low, np.where(value < high, value, high), low)
    entries = (np.rint(clamped).astype(np.int64) + quant.zero_point[0]).astype(out.dtype.numpy)
    return _typed(entries[x.array.astype(np.int32) - source.dtype.min], out)


def command(run: Callable[[Mapping[str, Any]], dict[str, np.ndarray]], names: Sequence[str]) -> None:
    """The command line of a script: the inputs of one call from a file, its outputs to another."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {os.path.basename(sys.argv[0])} INPUTS.npz OUTPUTS.npz    inputs: {', '.join(names)}")
    with np.load(sys.argv[1], allow_pickle=False) as file:
        inputs = {name: file[name] for name in file.files}
    with zipfile.ZipFile(sys.argv[2], "w") as archive:
        for name, array in run(inputs).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
