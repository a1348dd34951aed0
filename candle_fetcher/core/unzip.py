"""The one member of a zip, unpacked piece by piece: by isal where it is installed, which is quicker, else by zlib."""

from __future__ import annotations

import copy
import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from candle_fetcher.core.checksum import find_zlib
from candle_fetcher.core.errors import ReplyError

# Formats that unpack piece by piece. In zipfile bzip2 and LZMA do not: 2 kB of them become gigabytes in memory.
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PIECE_BYTES = 1 << 18
_PACKED_BYTES = 1 << 15
# What reading a zip that is not whole, or of another kind, raises.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError, ValueError)
_UTF8_FLAG = 0x800  # bit 11 of a member's general purpose flags (APPNOTE.TXT, 4.4.4)


def unzip(data: bytes, member: str, most_bytes: int) -> Iterator[bytes]:
    """Yield the only member of a zip, piece by piece.

    Its name must be `member`; no file of that name is ever written. Raises ReplyError for a zip that is cut, changed or
    encrypted, that has another member or several, or that unpacks to more than `most_bytes`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            names = [_member_name(info) for info in infos]
            if names != [member]:
                raise ReplyError(
                    f"expected a zip with the one member {member}, got {[name[:60] for name in names[:3]]}"
                )
            if infos[0].file_size > most_bytes:
                raise ReplyError(
                    f"{member} unpacks to {infos[0].file_size:,} bytes; expected at most {most_bytes:,} for its rows"
                )
            if infos[0].compress_type not in _PACKINGS:
                raise ReplyError(f"{member} has compression method {infos[0].compress_type}; expected deflate or none")
            yield from _checked(archive, infos[0])
    except ZIP_ERRORS as error:
        raise ReplyError(f"the zip of {member} is not whole ({type(error).__name__}: {str(error)[:120]})") from error


def _member_name(info: zipfile.ZipInfo) -> str:
    """Return the member's name, decoded as UTF-8 where its bytes are UTF-8, with or without the zip's flag.

    Without the flag, zipfile decodes the bytes as code page 437, which maps each byte to one character.
    """
    name = info.orig_filename
    try:
        return name if info.flag_bits & _UTF8_FLAG else name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _checked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the member, and check its size and CRC-32 at the end. Raises those of ZIP_ERRORS."""
    inflater = find_zlib()
    # Described as stored, the member is read by zipfile, which checks its header, without being unpacked.
    packed = copy.copy(info)
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
    del packed.CRC  # that of the unpacked bytes
    size = crc = 0
    with archive.open(packed) as file:
        is_stored = info.compress_type == zipfile.ZIP_STORED
        for piece in iter(lambda: file.read(_PIECE_BYTES), b"") if is_stored else _inflate(file, inflater):
            size += len(piece)
            if size > info.file_size:
                raise zipfile.BadZipFile(f"it unpacks to more than the {info.file_size:,} bytes that it states")
            crc = inflater.crc32(piece, crc)
            yield piece
    if size != info.file_size or crc != info.CRC:
        raise zipfile.BadZipFile(f"it unpacks to {size:,} of {info.file_size:,} bytes, or its CRC-32 differs")


def _inflate(file: IO[bytes], inflater: Any) -> Iterator[bytes]:
    """Yield what the deflate stream unpacks to, in pieces of at most _PIECE_BYTES."""
    stream = inflater.decompressobj(-zlib.MAX_WBITS)
    packed = b""
    while not stream.eof:
        packed = packed or file.read(_PACKED_BYTES)
        try:
            piece = stream.decompress(packed, _PIECE_BYTES)
        except inflater.error as error:
            raise zipfile.BadZipFile(str(error)) from error
        if not packed and not piece:
            raise EOFError("the stream has no end")
        packed = stream.unconsumed_tail
        if piece:
            yield piece
