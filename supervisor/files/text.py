"""Bytes to text: which encodings there are, and which characters a file may hold."""

import codecs
import re
from typing import Final

MOST_BYTES: Final = 8 << 20
"""Of this size, a scalar with one emoji in it (4 bytes a character) just fits into 100 MB."""

# NEL, LS and PS are line breaks to YAML 1.1 and to no editor: lines would be counted differently
_UNACCEPTABLE: Final = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_CHUNK: Final = 1 << 16
_LINE_BREAK: Final = re.compile("\r\n|\n|\r")


class Undecodable(Exception):
    """The bytes are no text that YAML may hold."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message, self.line, self.column = message, line, column


def decode(data: str | bytes) -> str:
    """`data` as text without its byte order mark: UTF-8, or UTF-16 where a mark says so.

    Raises:
        Undecodable: It is too large, in another encoding, or holds a character that YAML forbids.
    """
    if len(data) > MOST_BYTES:
        raise Undecodable(f"larger than {MOST_BYTES >> 20} MiB")
    text = data if isinstance(data, str) else _decoded(data)
    text = text.removeprefix("\ufeff")
    if bad := _UNACCEPTABLE.search(text):
        line, column = place_of(text, bad.start())
        raise Undecodable(f"character U+{ord(bad[0]):04X} is not allowed here: remove it", line, column)
    return text


def checked(data: str | bytes) -> bytes:
    """`data` as UTF-8 without its byte order mark, where `decode` takes it.

    A text is never made of all of it: with an emoji in it, it would be four times as large.

    Raises:
        Undecodable: As `decode` does.
    """
    if isinstance(data, str) or encoding_of(data) != "utf-8" or len(data) > MOST_BYTES:
        return decode(data).encode()
    content = data.removeprefix(codecs.BOM_UTF8)
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(content)
    try:
        for start in range(0, len(view) + 1, _CHUNK):
            if _UNACCEPTABLE.search(decoder.decode(view[start : start + _CHUNK], start + _CHUNK > len(view))):
                decode(data)
    except UnicodeDecodeError:
        decode(data)
    return content


def encoding_of(data: bytes) -> str:
    """The codec that `data` is written in, judged by its byte order mark alone."""
    return "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8"


def _decoded(data: bytes) -> str:
    encoding = encoding_of(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            before = data[: error.start].decode()
            line, column = place_of(before, len(before))
            raise Undecodable("not UTF-8: save the file as UTF-8", line, column) from error
        raise Undecodable("not UTF-16, although its byte order mark says so: save it as UTF-8") from error


def place_of(text: str, index: int) -> tuple[int, int]:
    line, start = 1, 0
    for match in _LINE_BREAK.finditer(text, 0, index):
        line, start = line + 1, match.end()
    return line, index - start + 1
