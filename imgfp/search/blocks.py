# SPDX-License-Identifier: AGPL-3.0-or-later
"""Codes of 4 bits in the order in which Faiss scans them, and back.

Faiss compares 32 codes at a time, with tables in registers ("fast scan": Andre, Kermarrec and Le Scouarnec, "Cache
locality is not enough", 2015). It has no call that orders codes outside of an index of its own.
"""

from __future__ import annotations

import numpy as np

#: Codes of a block.
BLOCK = 32
#: Place of each of the first 16 codes of a block in a half byte; the other 16 are in the other halves.
_ORDER = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])


def rows(sizes: np.ndarray) -> np.ndarray:
    """Codes in the blocks that hold so many, those that fill the last one included."""
    return -(-sizes // BLOCK) * BLOCK


def packed(codes: np.ndarray) -> np.ndarray:
    """Blocks, as bytes, of codes (n,b) uint8; zeros fill the last one."""
    filled = np.zeros((len(codes) + -len(codes) % BLOCK, codes.shape[1]), np.uint8)
    filled[: len(codes)] = codes
    turned = filled.reshape(-1, BLOCK, codes.shape[1]).transpose(0, 2, 1)
    first, second = turned[..., _ORDER], turned[..., _ORDER + 16]
    halves = first & 15 | second << 4, first >> 4 | second & 240
    return np.stack(halves, axis=2).reshape(-1)


def unpacked(data: np.ndarray, count: int, code_size: int) -> np.ndarray:
    """The first `count` codes (count,code_size) uint8 of blocks."""
    halves = data.reshape(-1, code_size, 2, 16)
    low, high = halves[:, :, 0], halves[:, :, 1]
    codes = np.empty((len(halves), code_size, BLOCK), np.uint8)
    codes[..., _ORDER] = low & 15 | high << 4
    codes[..., _ORDER + 16] = low >> 4 | high & 240
    return codes.transpose(0, 2, 1).reshape(-1, code_size)[:count]
