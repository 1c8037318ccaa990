"""Replaces several files that belong together: all of them, or none."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping

from qcompiler.artifact.header import shown
from qcompiler.errors import ArtifactError
from qcompiler.regular_file import check_output

Path = str | os.PathLike[str]


def replace_together(files: Mapping[Path, bytes]) -> None:
    """Write files of one folder. Each is first written under another name, then all are renamed. If a rename fails, the
    old files are restored.

    Raises:
        ArtifactError: a file cannot be written.
    """
    targets = [os.path.realpath(path) for path in files]
    mark = secrets.token_hex(8)
    new = {
        target: os.path.join(os.path.dirname(target), f".qc-{mark}-{index}.tmp") for index, target in enumerate(targets)
    }
    try:
        for target, content in zip(targets, files.values(), strict=True):
            check_output(target)
            with open(new[target], "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _rename_all(new, {target: f"{path}.old" for target, path in new.items()})
    except OSError as error:
        where = ", ".join(shown(path) for path in files)
        raise ArtifactError("the files cannot be written", where=where, got=error.strerror or str(error)) from error
    finally:
        for path in new.values():
            with contextlib.suppress(OSError):
                os.unlink(path)


def _rename_all(new: Mapping[str, str], old: Mapping[str, str]) -> None:
    """Rename each new file to its target. The old files stay under other names until all are done."""
    begun: list[str] = []
    try:
        for target, path in new.items():
            if os.path.exists(target):
                os.replace(target, old[target])
            begun.append(target)
            os.replace(path, target)
    except OSError:
        for target in begun:
            if os.path.exists(old[target]):
                os.replace(old[target], target)
            elif os.path.exists(target):
                os.unlink(target)
        raise
    for path in old.values():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
