"""QuantSpec: how one kind of tensor is quantized, with a text form that parses back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from qcompiler.arguments import check_type
from qcompiler.errors import QuantizationError
from qcompiler.types import DType

TORCH_EPS = 2.0**-23


@dataclass(frozen=True)
class QuantSpec:
    """How a tensor is quantized: element type, range, scheme and observer.

    Attributes:
        dtype, qmin, qmax: the quantized tensor's element type and range.
        symmetric: the zero point is fixed, at 0 or at the middle of an unsigned range.
        per_channel: there is one scale per channel; the op says along which axis.
        observer: the name of a registered observer, with numbers if it takes some: "percentile(99.9)".
        eps: the least scale.

    Raises:
        QuantizationError: a range that does not fit the element type, or an observer that is not registered.
    """

    dtype: DType = DType.U8
    qmin: int = 0
    qmax: int = 255
    symmetric: bool = False
    per_channel: bool = False
    observer: str = "histogram"
    eps: float = TORCH_EPS

    def __post_init__(self) -> None:
        check_type("dtype", self.dtype, DType, "a DType")
        check_type("qmin", self.qmin, int, "a code")
        check_type("qmax", self.qmax, int, "a code")
        check_type("symmetric", self.symmetric, bool, "True or False")
        check_type("per_channel", self.per_channel, bool, "True or False")
        check_type("observer", self.observer, str, "the name of an observer")
        check_type("eps", self.eps, (int, float), "a positive number")
        if not self.dtype.is_integer or not self.dtype.min <= self.qmin < self.qmax <= self.dtype.max:
            raise QuantizationError(
                "quantized range", expected=f"within {self.dtype}", got=f"[{self.qmin}, {self.qmax}]"
            )
        if not 0 < self.eps < math.inf:
            raise QuantizationError("eps of a QuantSpec", expected="a positive number", got=self.eps)
        from qcompiler.quantization.observers import make_observer

        make_observer(self)  # refuses an unknown name, or numbers that the observer does not take

    def __str__(self) -> str:
        scheme = "symmetric" if self.symmetric else "affine"
        granularity = "per_channel" if self.per_channel else "per_tensor"
        return f"{self.dtype} [{self.qmin},{self.qmax}] {scheme} {granularity} {self.observer} eps={self.eps!r}"

    @property
    def bits(self) -> int:
        """The bits that codes from qmin to qmax need, however wide the element type is."""
        return (self.qmax - self.qmin).bit_length()

    def widened(self) -> QuantSpec:
        """The spec of 16 bits in place of this one."""
        return replace(self, dtype=DType.I16, qmin=DType.I16.min, qmax=DType.I16.max)

    @staticmethod
    def parse(text: str) -> QuantSpec:
        """Read what `str(spec)` prints.

        Raises:
            QuantizationError: malformed text.
        """
        check_type("text", text, str, "the text of a spec")
        try:
            dtype, bounds, scheme, granularity, observer, eps = text.split()
            low, high = bounds.strip("[]").split(",")
            if scheme not in ("symmetric", "affine") or granularity not in ("per_tensor", "per_channel"):
                raise ValueError(scheme)
            return QuantSpec(
                DType(dtype),
                int(low),
                int(high),
                scheme == "symmetric",
                granularity == "per_channel",
                observer,
                float(eps.removeprefix("eps=")),
            )
        except ValueError:
            raise QuantizationError("malformed quantization spec", expected=str(QuantSpec()), got=text) from None
