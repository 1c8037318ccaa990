"""The file of a calibration: one safetensors file, with a digest of all its bytes.

The arrays are the observers' states, named by the number of their group and their field: `3.counts`; what was kept of
the inputs of products: `input3.rows`; and whole items: `item.2.0` is the first input of item 2. The metadata holds two
texts: `calibration`, a JSON object that says which group and spec, and which input, each number stands for, and the
digest: sha256 of the whole file, computed while its own 64 digits are zeros. Format 1 had no digest and no members of
groups, and format 2 no items.

Does not own what a state means (`observers.py`) nor the checks of the header (`qcompiler.artifact.header`).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from qcompiler.artifact.header import (
    DIGEST_KEY,
    Header,
    Path,
    array_of,
    encoded_header,
    fail,
    parsed_json,
    read_header,
    shown,
)
from qcompiler.artifact.replacing import replacing
from qcompiler.errors import ArtifactError
from qcompiler.regular_file import open_regular

FORMAT = 3
"""The version that is written; older ones are read too."""

KEY = "calibration"
_ZEROS = "0" * 64
_log = logging.getLogger(__name__)


def write_calibration(path: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write the file; the old file stays if anything fails. The bytes depend on nothing but the arguments.

    Args:
        content: what goes into the JSON object beside the version.

    Raises:
        ArtifactError: the file cannot be written, or an array has a dtype that the format has not.
    """
    text = json.dumps({**content, "format": FORMAT}, sort_keys=True)
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    header = encoded_header(path, arrays, {KEY: text, DIGEST_KEY: _ZEROS})
    data = b"".join(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in arrays.values())
    zeros = f'"{DIGEST_KEY}":"{_ZEROS}"'.encode()
    with replacing(path) as file:
        file.write(header.replace(zeros, zeros.replace(_ZEROS.encode(), _digest(header + data).encode())))
        file.write(data)


def read_calibration(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the JSON object, the arrays by name) of a file whose digest fits.

    A file of format 1 is read as well, with a warning in the log, since nothing can tell whether it is damaged.

    Raises:
        ArtifactError: the file cannot be read, is no calibration, is of another version or damaged.
    """
    try:
        with open_regular(path) as file:
            read_header(path, file, os.fstat(file.fileno()).st_size, "calibration")  # before all of it is read
            file.seek(0)
            raw = file.read()
    except OSError as error:
        raise ArtifactError("the calibration cannot be read", where=shown(path), got=error.strerror) from None
    header = read_header(path, io.BytesIO(raw), len(raw), "calibration")
    if KEY not in header.metadata:
        hint = "Calibration.save writes one"
        fail(path, "a safetensors file, but no calibration", expected=f"{KEY} in its metadata", hint=hint)
    content = parsed_json(path, header.metadata[KEY].encode(errors="replace"), "the calibration's header")
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT:
        fail(
            path,
            "no calibration, or one of another version",
            expected=f"format 1 to {FORMAT}",
            got=str(content)[:80],
            hint="load it with the qcompiler that saved it, or a newer one",
        )
    if version > 1 or DIGEST_KEY in header.metadata:
        _check_digest(path, header, raw)
    else:
        _log.warning(
            "%s is a calibration of format 1, which has no digest: damage would go unnoticed. Save it again.", path
        )
    data = np.frombuffer(raw, np.uint8, offset=header.data_start)
    return content, {name: array_of(path, entry, data) for name, entry in header.entries.items()}


def _check_digest(path: Path, header: Header, raw: bytes) -> None:
    """ArtifactError if the recorded digest is not that of the file with the digest's digits zeroed."""
    recorded = header.metadata.get(DIGEST_KEY, "")
    quoted = f'"{recorded}"'.encode(errors="replace")
    head = raw[: header.data_start]
    if len(recorded) != len(_ZEROS) or head.count(quoted) != 1:
        fail(path, "the calibration has no digest", expected=f"64 digits under {DIGEST_KEY}", got=recorded[:80] or None)
    got = _digest(head.replace(quoted, f'"{_ZEROS}"'.encode()) + raw[header.data_start :])
    if got != recorded:
        fail(
            path,
            "the calibration is damaged: its digest differs from the recorded one",
            expected=recorded,
            got=got,
            hint="copy the file again, or calibrate again",
        )


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
