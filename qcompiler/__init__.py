"""qcompiler: a graph compiler that turns float neural networks into int8 programs and runs them."""

from __future__ import annotations

import pathlib

_root = pathlib.Path(__file__).resolve().parent.parent
if (_root / "frontend").is_dir() and (_root / "backends").is_dir():
    __path__.append(str(_root))  # a checkout that is not installed: the sibling folders are subpackages
