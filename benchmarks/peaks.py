"""Print the peaks of one thread of this machine at its native level, in 10^9 multiply-adds per second."""

from __future__ import annotations

from qcompiler.backends.runtime.peak import peak
from qcompiler.backends.target import parse_target

if __name__ == "__main__":
    native = parse_target("native")
    print(f"{native.name}: bytes {peak(native, floats=False):.0f} GMAC/s, f32 {peak(native, floats=True):.0f} GMAC/s")
