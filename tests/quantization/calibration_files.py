"""Files of calibrations that are changed by hand."""

from __future__ import annotations

import hashlib
import struct

from tests.safetensors_files import join, parts

ZEROS = "0" * 64
DIGEST_KEY = "qcompiler.sha256"


def sealed(raw: bytes) -> bytes:
    """The file with a digest that fits, so that the checks behind it are reached. A file without a place for a digest,
    in valid JSON, stays as it is."""
    try:
        header, data = parts(raw)
        header["__metadata__"][DIGEST_KEY] = ZEROS
    except (ValueError, KeyError, TypeError, struct.error, RecursionError):
        return raw
    digest = hashlib.sha256(join(header, data)).hexdigest()
    header["__metadata__"][DIGEST_KEY] = digest
    return join(header, data)
