"""Constants whose codes have 4 bits, two to a byte, as saved models hold them.

The tensor `i4[3,5]:NAME`, or u4, is the constant NAME of shape [3, 5] as U8[8]: the codes row major, the first of two
in the lower half of its byte, those of i4 in two's complement. A last byte without a second code has 0 there.
"""

from __future__ import annotations

import math
import re

import numpy as np

from qcompiler.artifact.header import Path, fail
from qcompiler.ir import Const, Graph
from qcompiler.types import MAX_RANK, DType

_NAME = re.compile(r"([iu])4\[((?:\d{1,12}(?:,\d{1,12})*)?)\]:(.*)", re.DOTALL)


def packed_constants(graph: Graph) -> dict[str, str]:
    """The name of each constant whose codes fit in 4 bits -> the name of its packed tensor."""
    return {const.name: _stored(const) for const in graph.consts.values() if _fits(const)}


def is_packed_name(name: str) -> bool:
    """Whether a tensor of this name is a packed constant."""
    return _NAME.fullmatch(name) is not None


def pack(codes: np.ndarray) -> np.ndarray:
    """u8 [bytes] of i8 or u8 codes in [-8, 7] or [0, 15]."""
    halves = np.zeros(-(-codes.size // 2) * 2, np.uint8)
    halves[: codes.size] = np.ascontiguousarray(codes).reshape(-1).view(np.uint8) & 15
    return halves[::2] | halves[1::2] << 4


def unpack(path: Path, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """(the constant's name, its codes) of a packed tensor.

    Raises:
        ArtifactError: a tensor that packs no constant of the shape in its name.
    """
    match = _NAME.fullmatch(name)
    assert match is not None  # callers ask `is_packed_name`
    shape = tuple(map(int, match[2].split(","))) if match[2] else ()
    size = math.prod(shape)
    if array.dtype != np.uint8 or array.shape != (-(-size // 2),) or len(shape) > MAX_RANK:
        fail(path, "a tensor of 4-bit codes is malformed", tensor=name[:200], expected=f"U8[{-(-size // 2)}]")
    if size % 2 and array[-1] >> 4:
        fail(path, "a tensor of 4-bit codes has a code too many", tensor=name[:200])
    halves = np.empty((array.size, 2), np.uint8)
    halves[:, 0], halves[:, 1] = array & 15, array >> 4
    unsigned = halves.reshape(-1)[:size].reshape(shape)
    signed = (unsigned.view(np.int8) ^ np.int8(8)) - np.int8(8)
    codes: np.ndarray = np.array(signed if match[1] == "i" else unsigned)
    codes.setflags(write=False)
    return match[3], codes


def _stored(const: Const) -> str:
    sign = "i" if const.type.dtype in (DType.I8, DType.I4) else "u"
    return f"{sign}4[{','.join(map(str, const.data.shape))}]:{const.name}"


def _fits(const: Const) -> bool:
    dtype, quant = const.type.dtype, const.type.quant
    if dtype in (DType.I4, DType.U4):
        return True
    if quant is None or dtype not in (DType.I8, DType.U8):
        return False
    least, most = (-8, 7) if dtype is DType.I8 else (0, 15)
    return least <= quant.qmin and quant.qmax <= most
