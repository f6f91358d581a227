"""A range coder: symbols with integer frequencies to bytes and back, exactly.

The coder holds an interval [low, low + size) of 64-bit integers, which each symbol
narrows to its share. Before a byte is written size is at least 2**56, so that with totals
up to 2**32 a share is cut short by less than one part in 2**24: some 1e-7 bits a symbol.
With a size of 32 bits and the totals of 2**30 that language models need, it would be bits.

Source: G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a
  digitised message", Video & Data Recording Conference, Southampton 1979.
"""

import numpy as np
from jaxtyping import Int

from memcomp.errors import InputError

MAX_TOTAL = 2**32
_WHOLE = 2**64  # size of the first interval
_NARROW = 2**56  # an interval smaller than this leaves the first byte decided
_STATE_BYTES = 8


class RangeEncoder:
    """Takes symbols as intervals of cumulative frequencies, gives bytes."""

    def __init__(self):
        self._low, self._size = 0, _WHOLE
        self._out = bytearray()

    def put(self, start: int, end: int, total: int) -> None:
        """Adds a symbol.

        Args:
          start: sum of the frequencies of all symbols before it.
          end: `start` and its own frequency.
          total: sum of all frequencies, at most 2**32.

        Raises:
          InputError: the frequency is not positive, or these are not cumulative.
        """
        if not 0 <= start < end <= total <= MAX_TOTAL:
            raise InputError(
                f"frequencies from {start} to {end} of {total}; wanted 0 <= start < end "
                f"<= total <= {MAX_TOTAL}"
            )
        share = self._size // total
        self._low += start * share
        self._size = (end - start) * share
        self._carry()
        while self._size < _NARROW:
            self._out.append(self._low >> 56)
            self._low = self._low << 8 & _WHOLE - 1
            self._size <<= 8

    def finish(self) -> bytes:
        """All bytes: the decided ones, and one more unless zeros after them will do.

        Multiples of 2**56 are so near each other that the interval holds one.
        """
        last = -(-self._low // _NARROW)  # rounded up
        if self._low and self._low + self._size > _WHOLE:
            last = _WHOLE // _NARROW  # the carry into the byte before says it all
        self._low = last * _NARROW
        self._carry()
        return bytes(self._out) + bytes([self._low // _NARROW] if self._low else [])

    def _carry(self) -> None:
        """Adds what `low` has above 64 bits to the bytes that are written already."""
        if self._low < _WHOLE:
            return
        self._low -= _WHOLE
        i = len(self._out) - 1
        while self._out[i] == 0xFF:
            self._out[i] = 0
            i -= 1
        self._out[i] += 1


class RangeDecoder:
    """Gives the symbols back, each with the frequencies that it was put with.

    Its state is where the bytes point to in the interval, counted from low.
    """

    def __init__(self, data: bytes):
        self._data, self._read = data, 0
        self._code, self._size = 0, _WHOLE
        for _ in range(_STATE_BYTES):
            self._shift()

    def get(self, cumulative: Int[np.ndarray, "V"]) -> int:
        """The next symbol.

        Args:
          cumulative: sums of the frequencies of all symbols up to each, its own included.

        Raises:
          InputError: the bytes end too early, or no encoder has written them.
        """
        total = int(cumulative[-1])
        share = self._size // total
        point = self._code // share
        if point >= total:
            raise InputError("the stream is damaged; wanted bytes of the range coder")
        symbol = int(np.searchsorted(cumulative, point, side="right"))
        start = int(cumulative[symbol - 1]) if symbol else 0
        self._code -= start * share
        self._size = (int(cumulative[symbol]) - start) * share
        while self._size < _NARROW:
            self._size <<= 8
            self._shift()
        return symbol

    def finish(self) -> None:
        """Called after the last symbol.

        Raises:
          InputError: there are bytes left, so that there must be more symbols.
        """
        if self._read - _STATE_BYTES + 1 < len(self._data):
            raise InputError("the stream goes on after its last symbol; it is damaged")

    def _shift(self) -> None:
        # Zeros stand for what the encoder's last byte leaves open, and for no more.
        if self._read >= len(self._data) + _STATE_BYTES:
            raise InputError("the stream ends before its last symbol; it is cut short")
        byte = self._data[self._read] if self._read < len(self._data) else 0
        self._code = self._code << 8 | byte
        self._read += 1
