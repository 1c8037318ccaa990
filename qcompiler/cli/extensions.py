"""`--import`: Python files of a user that declare ops, observers, passes and importers before a command runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from qcompiler.errors import QCompilerError


def import_extensions(names: Sequence[str]) -> None:
    """Run each file (FILE.py), or import each module (package.module), once in this process.

    Raises:
        QCompilerError: a file that is missing, whose name a module has already, or that fails.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                _run_file(name)
            else:
                importlib.import_module(name)
        except QCompilerError as error:
            raise error.located(f"--import {name}") from None
        except Exception as error:  # whatever the user's code raises
            raise QCompilerError(
                "a file of yours failed", where=f"--import {name}", got=f"{type(error).__name__}: {error}"
            ) from error


def _run_file(name: str) -> None:
    """Run a file as the module of its name. Its folder is where it imports others from."""
    path, module = os.path.realpath(name), os.path.basename(name).removesuffix(".py")
    loaded = sys.modules.get(module)
    if loaded is not None:
        if os.path.realpath(getattr(loaded, "__file__", None) or "") == path:
            return
        raise QCompilerError(f"there is a module {module!r} already", hint="give the file another name")
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None or not os.path.exists(path):
        raise QCompilerError("there is no such file", got=name)
    sys.path.append(os.path.dirname(path))
    sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[module])
    except BaseException:
        del sys.modules[module]
        raise
