"""Damage to bytes, numbers and names that any door may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

ODD_INTS = [0, 1, -1, 2, 7, 8, 255, 2**16, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63)]
ODD_FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-30, 3.4e38, float("inf"), float("-inf"), float("nan")]
ODD_NAMES = [
    "", " ", "x", "y", "0", "a b", "none", "return", "%", '"', "\\", "\n", "\0", "x.1", "Größe", "\u202e", "😀",
    "a" * 1025, "../../x", "B", "2*B", "(", "{}", "%s", "true",
]  # fmt: skip


class Chance:
    """Draws by short names."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def one(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def below(self, limit: int) -> int:
        return int(self.rng.integers(limit))

    def often(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def int(self) -> int:
        """Draw a number that is mostly small, now and then odd."""
        return self.one(ODD_INTS) if self.often(0.3) else int(self.rng.integers(-3, 7))

    def float(self) -> float:
        return self.one(ODD_FLOATS) if self.often(0.5) else round(float(self.rng.normal() * 3), 3)


def damaged(data: bytes, chance: Chance) -> bytes:
    """Bytes with up to three changes: flipped, set, cut, repeated, moved, or another piece of themselves."""
    held = bytearray(data)
    for _ in range(chance.one([0, 1, 1, 1, 2, 3])):
        if not held:
            held += chance.rng.bytes(1 + chance.below(16))
            continue
        at, size = chance.below(len(held)), 1 + chance.below(chance.one([1, 4, 16, 256]))
        kind = chance.below(8)
        if kind == 0:
            held[at] ^= 1 << chance.below(8)
        elif kind == 1:
            held[at] = chance.one([0, 1, 0x7F, 0x80, 0xFF, chance.below(256)])
        elif kind == 2:
            del held[at : at + size]
        elif kind == 3:
            held[at:at] = held[at : at + size] * chance.one([1, 2, 50])
        elif kind == 4:
            held[at:at] = chance.rng.bytes(size)
        elif kind == 5:
            other = chance.below(len(held))
            held[at : at + size] = held[other : other + size]
        elif kind == 6:
            number = chance.one(ODD_INTS) % 2**64
            held[at : at + 8] = number.to_bytes(8, chance.one(["little", "big"]))
        else:
            del held[at:]
    return bytes(held)
