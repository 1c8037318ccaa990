"""Places AArch64 object files in memory, or makes programs of them. Supports only the parts of ELF that LLVM uses for
kernels.

Sources: the ELF-64 object file format (System V ABI); ELF for the Arm 64-bit architecture (AAELF64), its relocations.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from qcompiler.errors import LoweringError
from qcompiler.fork_safety import cached_property

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_MAGIC = b"\x7fELF\x02\x01\x01" + bytes(9)
_EXECUTABLE, _AARCH64 = 2, 183
_SYMTAB, _RELA, _NOBITS = 2, 4, 8
_ALLOCATED = 2
_PAGE = 0x1000

_ABS64, _DIFFERENCE, _PAGE_OF, _ADD_LOW, _JUMP, _CALL = 257, 261, 275, 277, 282, 283
_LOAD_LOW = {278: 0, 284: 1, 285: 2, 286: 3, 299: 4}
"""Relocations of the low 12 bits of an address in a load, and the shift by which the field is scaled."""


@dataclass(frozen=True)
class _Section:
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


@dataclass(frozen=True)
class ObjectFile:
    """A relocatable object."""

    data: bytes

    @cached_property
    def sections(self) -> list[_Section]:
        fields = _HEADER.unpack_from(self.data)
        start, size, count = fields[6], fields[11], fields[12]
        found = []
        for number in range(count):
            _, kind, flags, _, offset, nbytes, link, info, align, _ = _SECTION.unpack_from(
                self.data, start + number * size
            )
            found.append(_Section(kind, flags, offset, nbytes, link, info, max(1, align)))
        return found

    @cached_property
    def offsets(self) -> dict[int, int]:
        """The offset in the image of each section that a program needs."""
        end, found = 0, {}
        for number, section in enumerate(self.sections):
            if section.flags & _ALLOCATED:
                end = -(-end // section.align) * section.align
                found[number] = end
                end += section.size
        return found

    @property
    def nbytes(self) -> int:
        """The bytes that the image takes."""
        return max((offset + self.sections[number].size for number, offset in self.offsets.items()), default=0)

    @cached_property
    def _symbols(self) -> list[tuple[str, int, int]]:
        """(name, section, offset in it)."""
        found = []
        for table in self.sections:
            if table.kind == _SYMTAB:
                names = self.sections[table.link].offset
                for place in range(table.offset, table.offset + table.size, _SYMBOL.size):
                    name, _, _, section, value, _ = _SYMBOL.unpack_from(self.data, place)
                    text = self.data[names + name : self.data.index(b"\0", names + name)].decode()
                    found.append((text, section, value))
        return found

    def address(self, name: str, base: int) -> int:
        """The address of a symbol when the image lies at `base`."""
        for text, section, value in self._symbols:
            if text == name and section in self.offsets:
                return base + self.offsets[section] + value
        raise LoweringError(f"the object has no symbol {name}")

    def image(self, base: int) -> bytes:
        """The bytes of the image for the address `base`, a multiple of a page. LoweringError for a relocation that
        kernels do not need."""
        image = bytearray(self.nbytes)
        for number, offset in self.offsets.items():
            section = self.sections[number]
            if section.kind != _NOBITS:
                image[offset : offset + section.size] = self.data[section.offset : section.offset + section.size]
        for section in self.sections:
            if section.kind == _RELA and section.info in self.offsets:
                for place in range(section.offset, section.offset + section.size, _RELOCATION.size):
                    offset, info, addend = _RELOCATION.unpack_from(self.data, place)
                    name, where, value = self._symbols[info >> 32]
                    if where not in self.offsets:
                        raise LoweringError(f"the object needs {name}, and there is no library")
                    symbol = base + self.offsets[where] + value + addend
                    _relocate(image, self.offsets[section.info] + offset, info & 0xFFFFFFFF, symbol, base)
        return bytes(image)


def _relocate(image: bytearray, at: int, kind: int, symbol: int, base: int) -> None:
    """Put a symbol's address (with its addend) into the instruction or word at an offset of the image."""
    if kind == _ABS64:
        struct.pack_into("<Q", image, at, symbol)
        return
    if kind == _DIFFERENCE:
        struct.pack_into("<i", image, at, symbol - (base + at))
        return
    (word,) = struct.unpack_from("<I", image, at)
    if kind == _PAGE_OF:
        pages = (symbol // _PAGE) - ((base + at) // _PAGE)
        word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    elif kind == _ADD_LOW:
        word |= symbol % _PAGE << 10
    elif kind in _LOAD_LOW:
        word |= symbol % _PAGE >> _LOAD_LOW[kind] << 10
    elif kind in (_JUMP, _CALL):
        word |= symbol - (base + at) >> 2 & 0x3FFFFFF
    else:
        raise LoweringError(f"relocation {kind} is not supported", where=f"byte {at} of the image")
    struct.pack_into("<I", image, at, word)


def executable(data: bytes, entry: str, base: int = 0x400000) -> bytes:
    """A static program for Linux of one object without undefined symbols. entry: the function that it starts with."""
    made = ObjectFile(data)
    image = made.image(base + _PAGE)
    start = made.address(entry, base + _PAGE)
    header = _HEADER.pack(
        _MAGIC, _EXECUTABLE, _AARCH64, 1, start, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, 1, 0, 0, 0
    )
    nbytes = _PAGE + len(image)
    segment = _SEGMENT.pack(1, 7, 0, base, base, nbytes, nbytes, _PAGE)
    return (header + segment).ljust(_PAGE, b"\0") + image
