"""Signatures of the tests' own kernels, named by their fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from qcompiler.backends.kernel_ir.definition import Aliased, Arguments, E, P, S, Written


@dataclass(frozen=True)
class Nothing(Arguments["Nothing"]):
    pass


@dataclass(frozen=True)
class Y(Arguments["Y"], Generic[P]):
    y: Written[P]


@dataclass(frozen=True)
class YN(Arguments["YN"], Generic[P, E]):
    y: Written[P]
    n: E


@dataclass(frozen=True)
class XY(Arguments["XY"], Generic[P]):
    x: P
    y: Written[P]


@dataclass(frozen=True)
class InPlace(Arguments["InPlace"], Generic[P]):
    x: Aliased[P]
    y: Aliased[Written[P]]


@dataclass(frozen=True)
class XYN(Arguments["XYN"], Generic[P, E]):
    x: P
    y: Written[P]
    n: E


@dataclass(frozen=True)
class XYAlpha(Arguments["XYAlpha"], Generic[P, E, S]):
    x: P
    y: Written[P]
    n: E
    alpha: S


@dataclass(frozen=True)
class XPYN(Arguments["XPYN"], Generic[P, E]):
    x: P
    p: P
    y: Written[P]
    n: E


@dataclass(frozen=True)
class AccXY(Arguments["AccXY"], Generic[P]):
    acc: P
    x: P
    y: Written[P]


@dataclass(frozen=True)
class AccXWY(Arguments["AccXWY"], Generic[P]):
    acc: P
    x: P
    w: P
    y: Written[P]


@dataclass(frozen=True)
class UVY(Arguments["UVY"], Generic[P]):
    u: P
    v: P
    y: Written[P]


@dataclass(frozen=True)
class AccUVY(Arguments["AccUVY"], Generic[P]):
    acc: P
    u: P
    v: P
    y: Written[P]


@dataclass(frozen=True)
class TableXY(Arguments["TableXY"], Generic[P]):
    table: P
    x: P
    y: Written[P]


@dataclass(frozen=True)
class ABCY(Arguments["ABCY"], Generic[P]):
    """Up to three operands of an op."""

    a: P
    b: P
    c: P
    y: Written[P]


@dataclass(frozen=True)
class Operands(Arguments["Operands"], Generic[P]):
    """Up to six operands of an instruction."""

    a: P
    b: P
    c: P
    d: P
    e: P
    f: P
    y: Written[P]


@dataclass(frozen=True)
class PNS(Arguments["PNS"], Generic[P, E, S]):
    """One parameter of each kind."""

    p: Written[P]
    n: E
    s: S


@dataclass(frozen=True)
class Gemm(Arguments["Gemm"], Generic[P, E]):
    x: P
    w: P
    y: Written[P]
    m: E
    n: E
    k: E
    stride: E
