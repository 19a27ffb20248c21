import google_crc32c
import pytest
from finetuned import _crc32c


@pytest.mark.parametrize("size", [0, 1, 2, 9, 4096, 65537])
def test_python_equals_the_library(size):
    data = bytes((i * 131 + 7) % 256 for i in range(size))
    assert _crc32c.in_python(data) == google_crc32c.value(data)


def test_known_value():
    assert _crc32c.in_python(b"123456789") == 0xE3069283  # RFC 3720, B.4
