"""CRC-32C (Castagnoli): by google_crc32c where it is installed, else in Python, 16 bits a step."""

import array
import sys
from collections.abc import Callable
from typing import Any

_POLYNOMIAL = 0x82F63B78  # reflected


def _byte_table() -> list[int]:
    table = []
    for i in range(256):
        crc = i
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_BYTES = _byte_table()
_WORDS: list[int] = []  # CRC of two bytes, made on first use


def _words() -> list[int]:
    if not _WORDS:
        for i in range(1 << 16):
            low = _BYTES[i & 0xFF]
            _WORDS.append(_BYTES[(low ^ (i >> 8)) & 0xFF] ^ (low >> 8))
    return _WORDS


def in_python(data: bytes) -> int:
    table = _words()
    words = array.array("H", data[: len(data) & ~1])
    if sys.byteorder == "big":
        words.byteswap()
    crc = 0xFFFFFFFF
    for word in words:
        crc = table[(crc ^ word) & 0xFFFF] ^ (crc >> 16)
    if len(data) & 1:
        crc = _BYTES[(crc ^ data[-1]) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _fastest() -> Callable[[bytes], int]:
    try:
        import google_crc32c
    except ImportError:
        return in_python
    value: Any = google_crc32c.value
    return lambda data: int(value(data))


crc32c = _fastest()
