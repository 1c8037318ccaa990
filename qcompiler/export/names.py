"""Names of a graph as parts of generated code: identifiers and comments. None reaches code as it is."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable

_LONGEST = 40
_LONGEST_COMMENT = 80


class Identifiers:
    """Identifiers for names, each given once. A name that is an identifier keeps its spelling where it is free."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {*taken, *keyword.kwlist, *keyword.softkwlist, *dir(builtins)}

    def make(self, name: str, otherwise: str = "v") -> str:
        """A new identifier for a name, of ASCII letters and at most about 40 characters; `otherwise` begins those of
        names that have none."""
        base = re.sub(r"[^A-Za-z0-9_]+", "_", name)[:_LONGEST].strip("_") or otherwise
        if not base[0].isalpha():
            base = f"{otherwise}{base}" if base[0].isdigit() else f"{otherwise}_{base}"
        found, count = base, 1
        while found in self._taken:
            count += 1
            found = f"{base}_{count}"
        self._taken.add(found)
        return found


def comment(text: str) -> str:
    """Text for a comment of one line: printable ASCII, cut to 80 characters."""
    plain = ascii(text[: 2 * _LONGEST_COMMENT])[1:-1].replace("\\'", "'")
    return plain if len(plain) <= _LONGEST_COMMENT else plain[: _LONGEST_COMMENT - 3] + "..."


def origin_text(origins: Iterable[object]) -> str:
    """The user's names of a node's parts, each once."""
    paths = dict.fromkeys(str(getattr(origin, "path", origin)) for origin in origins)
    return comment(" + ".join(path for path in paths if path))
