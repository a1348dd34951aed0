"""Bytes with damage, as cut and changed files have it."""

from __future__ import annotations

import random


def damaged(good: bytes, dice: random.Random, number: int) -> bytes:
    """Return the bytes cut off, without one byte, or with one to three flipped bits, by turns of the number."""
    data = bytearray(good)
    if number % 4 == 0:
        del data[dice.randrange(len(data)) :]
    elif number % 4 == 1:
        del data[dice.randrange(len(data))]
    else:
        for _ in range(number % 3 + 1):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)
