"""Finds innermost loops in the assembly of kernels, and counts their instructions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MULTIPLIES = {
    "x86-64": r"v(pmaddwd|pmaddubsw|pdpbusd|fn?madd\w+)",
    "aarch64": r"(smull|smlal|sdot|usdot|usmmla|fmla)",
}
"""Architecture -> a pattern of the names of instructions that multiply vectors."""
FLOATS = re.compile(r"fn?madd|fmla")
"""A pattern in the names of those that multiply floats."""
_LABEL = re.compile(r"(\.L\w+):")
_BRANCH = re.compile(r"\s+(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s+(?:\w+, )?(?:#\d+, )?(\.L\w+)")


@dataclass(frozen=True)
class InnerLoop:
    """A loop that contains no other label. lines: its lines of assembly, from its label to its branch."""

    arch: str
    lines: tuple[str, ...]

    @property
    def instructions(self) -> list[str]:
        return [line.strip() for line in self.lines if line.startswith("\t") and not line.strip().startswith(".")]

    @property
    def multiplies(self) -> list[str]:
        """The names of the instructions that multiply vectors."""
        names = (line.removeprefix("{vex}").split()[0] for line in self.instructions)
        return [name for name in names if re.match(MULTIPLIES[self.arch], name)]

    @property
    def stack(self) -> list[str]:
        """The instructions that read or write the stack."""
        pattern = r"\[sp" if self.arch == "aarch64" else r"%rsp"
        return [line for line in self.instructions if re.search(pattern, line)]


def inner_loops(arch: str, assembly: str) -> Iterator[InnerLoop]:
    """All innermost loops of a kernel's assembly."""
    lines, labels = assembly.splitlines(), {}
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        branch = _BRANCH.match(line)
        if branch and branch[1] in labels:
            body = tuple(lines[labels[branch[1]] : number + 1])
            if sum(bool(_LABEL.match(each)) for each in body) == 1:
                yield InnerLoop(arch, body)


def hottest_block(arch: str, assembly: str) -> InnerLoop:
    """The run of instructions without labels and branches that multiplies most."""
    blocks: list[list[str]] = [[]]
    for line in assembly.splitlines():
        if _LABEL.match(line) or _BRANCH.match(line):
            blocks.append([])
        else:
            blocks[-1].append(line)
    return max((InnerLoop(arch, tuple(lines)) for lines in blocks), key=lambda block: len(block.multiplies))


def hottest_loop(arch: str, assembly: str, of_codes: bool = False) -> InnerLoop:
    """The innermost loop with the most instructions that multiply. of_codes: among those that multiply no floats."""
    loops = list(inner_loops(arch, assembly))
    if of_codes:
        loops = [loop for loop in loops if not any(FLOATS.search(name) for name in loop.multiplies)]
    return max(loops, key=lambda loop: len(loop.multiplies))
