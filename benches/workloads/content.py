"""Contents of made-up files: bytes that compress about as programs do, always the same for one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate

POOL_BYTES = 16 << 20
WORDS = 1024
CHUNK = 4096
NOISE = 0.16
"""The share of chunks that do not compress at all: deflate makes about two fifths of the whole, as of a toolchain."""


class Content:
    """Slices of a pool of made-up text and noise.

    The pool is far longer than deflate's window of 32 KiB, so that a slice that comes again costs as much as a new one.
    A compressor with a longer window would profit, which is why no workload of these is recompressed.

    Args:
        seed: the same one gives the same bytes, with any version of Python that has `random.choices`.
        pool: bytes of the pool; less than the default only where ratios do not matter.
    """

    def __init__(self, seed: int, pool: int = POOL_BYTES) -> None:
        self.random = random.Random(seed)
        words = [self.random.randbytes(self.random.randint(4, 20)) for _ in range(WORDS)]
        # As in a language: the word of rank n is n times rarer than the first.
        weights = list(accumulate(1 / rank for rank in range(1, WORDS + 1)))
        parts: list[bytes] = []
        for _ in range(pool // CHUNK):
            if self.random.random() < NOISE:
                parts.append(self.random.randbytes(CHUNK))
            else:
                parts.append(b"".join(self.random.choices(words, cum_weights=weights, k=CHUNK // 8))[:CHUNK])
        self.pool = b"".join(parts)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size <= CHUNK:
            return self._slice(size)
        return b"".join(self._pieces(size))

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._slice(min(size, self.random.randint(CHUNK, 16 * CHUNK)))
            size -= len(piece)
            yield piece

    def _slice(self, size: int) -> bytes:
        at = self.random.randrange(max(1, len(self.pool) - size))
        return self.pool[at : at + size]
