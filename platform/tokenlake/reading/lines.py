"""The lines of a text file as UTF-8, in blocks of whole lines; decompresses the file and decodes its encoding."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator

import pyarrow as pa

from tokenlake.errors import SourceError
from tokenlake.reading.handles import FileHandle

#: Bytes of a block of lines, and bytes at the start of a file that are checked before anything is read.
BLOCK_BYTES, _HEAD = 8 << 20, 1 << 20
#: Most bytes of a line; a longer one is an error.
LONGEST_LINE = 256 << 20
#: In this order, since the byte order mark of UTF-16 is a prefix of one of UTF-32.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}


class Lines:
    """The lines of one file.

    A line ends with a line feed, perhaps after a carriage return; in a file without line feeds, with a carriage return.

    Args:
        handle: the file.
        encoding: Python's name of the encoding; None: UTF-8, or what the byte order mark says.

    Raises:
        SourceError: an unknown encoding.
    """

    def __init__(self, handle: FileHandle, encoding: str | None = None) -> None:
        self._handle = handle
        self._encoding = encoding
        if encoding is not None:
            try:
                codecs.lookup(encoding)
            except LookupError as error:
                raise SourceError(
                    f"encoding={encoding!r}; expected one that Python knows, such as 'latin-1'"
                ) from error

    def read(self) -> tuple[bytes, Iterator[bytes]]:
        """The first line that is not blank, without its line end, and blocks of all later lines, with their line ends.

        Raises:
            SourceError: the file has another encoding, or no lines.
        """
        blocks = self._whole_lines()
        for block in blocks:
            line, _, rest = block.lstrip(b"\r\n").partition(b"\n")
            if line:
                return line.rstrip(b"\r"), itertools.chain([rest] if rest else [], blocks)
        raise SourceError(f"{self._handle.path} holds no line; its first one should name the columns")

    def estimate(self) -> int:
        """Estimated number of lines, from the first megabyte."""
        opened = self._handle.open()
        head = self._unpacked(opened).read(_HEAD)
        return int(opened.size() * max(head.count(b"\n"), 1) / max(len(head), 1))

    def _whole_lines(self) -> Iterator[bytes]:
        rest: list[bytes] = []
        for piece in self._pieces():
            cut = piece.rfind(b"\n") + 1
            if cut:
                yield b"".join([*rest, piece[:cut]])
                rest = []
            rest.append(piece[cut:])
            if sum(map(len, rest)) > LONGEST_LINE:
                raise SourceError(
                    f"{self._handle.path} has a line of more than {LONGEST_LINE:,} bytes; is it text at all?"
                )
        if last := b"".join(rest):
            yield last + b"\n"

    def _pieces(self) -> Iterator[bytes]:
        """The file in UTF-8 without a byte order mark, in pieces that may end anywhere."""
        stream = self._unpacked(self._handle.open())
        piece = stream.read(BLOCK_BYTES)
        encoding = self._encoding or next((name for mark, name in _MARKS.items() if piece.startswith(mark)), "utf-8")
        plain = codecs.lookup(encoding).name == "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)()
        first, old = True, None
        while piece:
            following = stream.read(BLOCK_BYTES)
            if first and plain:
                self._check(piece[:_HEAD], final=not following and len(piece) <= _HEAD)
            text = piece if plain else self._decoded(decoder, piece, encoding, final=not following)
            text = text.removeprefix(codecs.BOM_UTF8) if first else text
            if old is None and (b"\n" in text or b"\r" in text[:-1]):
                old = b"\n" not in text
            yield text.replace(b"\r", b"\n") if old else text
            piece, first = following, False

    def _unpacked(self, opened: pa.NativeFile) -> pa.NativeFile:
        """A separate decompressed stream, so that two readers of one handle do not share a position."""
        stream = opened.get_stream(0, opened.size())
        head = opened.read_at(4, 0)
        packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
        return pa.CompressedInputStream(stream, packed) if packed else stream

    def _decoded(self, decoder: codecs.IncrementalDecoder, piece: bytes, encoding: str, *, final: bool) -> bytes:
        try:
            return decoder.decode(piece, final).encode()
        except UnicodeError as error:
            raise SourceError(f"{self._handle.path} is not text in {encoding} ({error}); tell its encoding") from error

    def _check(self, head: bytes, *, final: bool) -> None:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head, final)
        except UnicodeDecodeError as error:
            raise not_utf8(self._handle.path, f"byte 0x{head[error.start]:02x} at {error.start}") from error


def not_utf8(name: str, detail: str) -> SourceError:
    """The error of text in another encoding."""
    return SourceError(f"{name} is not text in UTF-8 ({detail}); tell its encoding, or save it as UTF-8 or Parquet")
