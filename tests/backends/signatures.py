"""Signatures of the kernels that tests define, named by their fields."""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.definition import Aliased, Arguments, E, P, S, Written


class Nothing(Arguments["Nothing"]):
    pass


class Y(Arguments["Y"], Generic[P]):
    y: Written[P]


class YN(Arguments["YN"], Generic[P, E]):
    y: Written[P]
    n: E


class XY(Arguments["XY"], Generic[P]):
    x: P
    y: Written[P]


class InPlace(Arguments["InPlace"], Generic[P]):
    x: Aliased[P]
    y: Aliased[Written[P]]


class XYN(Arguments["XYN"], Generic[P, E]):
    x: P
    y: Written[P]
    n: E


class XYAlpha(Arguments["XYAlpha"], Generic[P, E, S]):
    x: P
    y: Written[P]
    n: E
    alpha: S


class XPYN(Arguments["XPYN"], Generic[P, E]):
    x: P
    p: P
    y: Written[P]
    n: E


class AccXY(Arguments["AccXY"], Generic[P]):
    acc: P
    x: P
    y: Written[P]


class AccXWY(Arguments["AccXWY"], Generic[P]):
    acc: P
    x: P
    w: P
    y: Written[P]


class UVY(Arguments["UVY"], Generic[P]):
    u: P
    v: P
    y: Written[P]


class AccUVY(Arguments["AccUVY"], Generic[P]):
    acc: P
    u: P
    v: P
    y: Written[P]


class TableXY(Arguments["TableXY"], Generic[P]):
    table: P
    x: P
    y: Written[P]


class ABCY(Arguments["ABCY"], Generic[P]):
    """Up to three operands of an op, and its result."""

    a: P
    b: P
    c: P
    y: Written[P]


class Operands(Arguments["Operands"], Generic[P]):
    """Up to six operands of an instruction."""

    a: P
    b: P
    c: P
    d: P
    e: P
    f: P
    y: Written[P]


class PNS(Arguments["PNS"], Generic[P, E, S]):
    """One parameter of each kind."""

    p: Written[P]
    n: E
    s: S


class Gemm(Arguments["Gemm"], Generic[P, E]):
    x: P
    w: P
    y: Written[P]
    m: E
    n: E
    k: E
    stride: E
