"""Sizes in the text of a type: ints, and expressions of names, which must not be too large to expand."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from qcompiler.dims import DimLike, parse_dim
from qcompiler.text.messages import at_token
from qcompiler.text.phrases import Failure, int64

MAX_NAME = 1024
MAX_DIM_NESTING = 32
MAX_DIM_TERMS = 1000


def parse_size(token: Any, text: str) -> DimLike:
    """One size in the text of a type, which is `token`."""
    text = text.strip()
    if text.isdigit():
        return int64(type(token).new_borrow_pos(token.type, text, token))
    if _dim_cost(text) > MAX_DIM_TERMS or any(len(part) > 18 for part in re.findall(r"\d+", text)):
        raise Failure(
            token, "size expression too large", expected=f"at most {MAX_DIM_TERMS} terms, {MAX_DIM_NESTING} brackets"
        )
    if any(len(name) > MAX_NAME for name in re.findall(r"\w+", text)):
        raise Failure(token, "name of a size too long", expected=f"at most {MAX_NAME} characters")
    return at_token(token, partial(parse_dim, text))


def _dim_cost(text: str) -> int:
    """An upper bound for the terms of an expanded size; above MAX_DIM_TERMS if brackets or signs nest too deep."""
    stack: list[list[int]] = []
    total, product, signs = 0, 1, 0
    for part in re.findall(r"\w+|//|[-+*()]", text):
        signs = signs + 1 if part == "-" else 0
        if signs > 1:
            return MAX_DIM_TERMS + 1
        if part == "(":
            stack.append([total, product])
            total, product = 0, 1
        elif part == ")" and stack:
            inner = max(1, total + product)
            total, product = stack.pop()
            product *= inner
        elif part in "+-":
            total, product = total + product, 1
        if len(stack) > MAX_DIM_NESTING or total + product > MAX_DIM_TERMS:
            return MAX_DIM_TERMS + 1
        if part == "*":
            product += 1
    return total + product
