"""Codes of tables whose rows are read by index, with torch's numbers (float_qparams_weight_only_qconfig).

Each row has a scale and a bias of its own, the real number of code 0: a code q stands for q * scale + bias. Both are
real, so that the bias need not be a multiple of the scale, and 0 need not have a code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompiler.quantization.spec import TORCH_EPS


@dataclass(frozen=True)
class RowCodes:
    """A quantized table [rows, columns].

    Attributes:
        codes: u8 [rows, columns], or of 4 bits u8 [rows, (columns + 1) // 2]: byte i holds code i in its low half, and
            code i + (columns + 1) // 2 in its high half.
        scale, bias: f32 [rows, 1]; of 4 bits they are rounded to f16, as torch stores them.
    """

    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def row_codes(table: np.ndarray, bits: int) -> RowCodes:
    """Quantize f32 [rows, columns], which is finite and not empty, to codes of 8 or 4 bits.

    The formulas are those of torch's PerChannelMinMaxObserver with per_channel_affine_float_qparams, of
    quantize_per_channel and of the prepack ops of embeddings, each step rounded to f32.
    """
    qmax = (1 << bits) - 1
    low, high = table.min(axis=1, keepdims=True), table.max(axis=1, keepdims=True)
    scale = (high - low) / np.float32(qmax)
    scale = np.where(scale > np.float32(TORCH_EPS), scale, np.float32(1))
    zero = -low / scale
    codes = np.clip(np.rint(table * (np.float32(1) / scale) + zero), 0, qmax).astype(np.uint8)
    bias = zero * scale * np.float32(-1)
    if bits == 8:
        return RowCodes(codes, scale, bias)
    half = (table.shape[1] + 1) // 2
    high_codes = np.zeros((len(codes), half), np.uint8)
    high_codes[:, : table.shape[1] - half] = codes[:, half:]
    with np.errstate(over="ignore"):
        scale, bias = (values.astype(np.float16).astype(np.float32) for values in (scale, bias))
    return RowCodes(codes[:, :half] | high_codes << 4, scale, bias)
