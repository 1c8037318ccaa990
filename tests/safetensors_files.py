"""Takes the bytes of safetensors files apart and puts them together, for tests that change them."""

from __future__ import annotations

import json
import struct
from typing import Any


def parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a file."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header: dict[str, Any] | str, data: bytes) -> bytes:
    """The bytes of a file. A header that is text stands there as it is."""
    encoded = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data
