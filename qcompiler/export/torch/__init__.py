"""A graph as a torch module of aten ops.

`module.py` builds it, `codes.py` has the integer meaning of each op, `reals.py` the float meaning, and `movement.py`
what moves elements either way.
"""
