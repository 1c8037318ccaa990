"""Writing a file so that, after any failure, the old file or none is there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO

from qcompiler.artifact.header import Path, shown
from qcompiler.errors import ArtifactError
from qcompiler.regular_file import check_output


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file in the folder of `path`, which replaces `path` on disk when the block ends without an error."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".qc-{secrets.token_hex(8)}.tmp")
    made = False
    try:
        check_output(target)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        made = True
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, os.stat(target).st_mode & 0o777)
        os.replace(temporary, target)
        made = False
        _sync_folder(folder)
    except OSError as error:
        hint = None if os.path.isdir(folder) else f"the folder {folder} does not exist"
        raise ArtifactError(
            "the file cannot be written", where=shown(path), got=error.strerror or str(error), hint=hint
        ) from error
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sync_folder(folder: str) -> None:
    """Make a rename durable, where the system can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
