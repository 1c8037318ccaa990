"""The demo's modules for tests: its dataset, its preprocessing, its trained model.

They lie in a folder that is no package, and other examples have modules of the same names.
"""

from __future__ import annotations

import importlib
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "examples" / "fashion_mnist"
_NAMES = ("dataset", "model", "preprocess")

sys.path.insert(0, str(FOLDER))
try:
    _dataset, _model, _preprocess = (importlib.import_module(name) for name in _NAMES)
finally:
    sys.path.remove(str(FOLDER))
    for _name in _NAMES:
        sys.modules.pop(_name, None)

load_split = _dataset.load_split
trained_model = _model.trained_model
preprocess = _preprocess.preprocess
