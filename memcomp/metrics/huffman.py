"""A canonical Huffman code over the characters of a corpus."""

import dataclasses
import heapq
import itertools
from collections.abc import Mapping

from memcomp.errors import InputError

_CODE_POINT_BITS, _LENGTH_BITS = 21, 6  # bits per character in a table of lengths


@dataclasses.dataclass(frozen=True)
class HuffmanCode:
    """A prefix code, which the lengths of its code words determine.

    Attributes:
      lengths: number of bits of each character's code word.

    Source: Huffman 1952; canonical: Schwartz and Kallick 1964.
    """

    lengths: Mapping[str, int]

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> "HuffmanCode":
        """Makes the shortest code for characters with these counts.

        Raises:
          InputError: there is no character.
        """
        if not counts:
            raise InputError("there are no characters to make a code of; give a text")
        # A tree is a triple: weight, a number that breaks ties, depth of each character.
        trees = [
            (count, number, {character: 0})
            for number, (character, count) in enumerate(sorted(counts.items()))
        ]
        heapq.heapify(trees)
        numbers = itertools.count(len(trees))
        while len(trees) > 1:
            (left, _, a), (right, _, b) = heapq.heappop(trees), heapq.heappop(trees)
            deeper = {c: depth + 1 for c, depth in (a | b).items()}
            heapq.heappush(trees, (left + right, next(numbers), deeper))
        # If there is only one character, its code word still has one bit.
        return cls({c: max(depth, 1) for c, depth in trees[0][2].items()})

    def words(self) -> dict[str, str]:
        """Code word of each character, as a string of 0 and 1."""
        words, code, last = {}, 0, 0
        for length, character in sorted((n, c) for c, n in self.lengths.items()):
            code <<= length - last
            words[character] = f"{code:0{length}b}"
            code, last = code + 1, length
        return words

    def table_bits(self) -> int:
        """Number of bits of the table: 21 for a character and 6 for its length."""
        return len(self.lengths) * (_CODE_POINT_BITS + _LENGTH_BITS)

    def encode(self, text: str) -> bytes:
        """Encodes a text: the words of its characters, a 1 as end mark, then zeros.

        Raises:
          InputError: a character has no code word.
        """
        words = self.words()
        if unknown := set(text) - words.keys():
            raise InputError(f"the code has no words for {sorted(unknown)}; add them")
        bits = "".join(words[character] for character in text) + "1"
        num_bytes = -(-len(bits) // 8)
        return int(bits.ljust(8 * num_bytes, "0"), 2).to_bytes(num_bytes, "big")

    def decode(self, data: bytes) -> str:
        """Decodes bytes that `encode` has made.

        Raises:
          InputError: the bytes are of no text in this code.
        """
        characters = {word: character for character, word in self.words().items()}
        bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
        end, text, word = bits.rfind("1"), [], ""
        for bit in bits[: max(end, 0)]:
            word += bit
            if word in characters:
                text.append(characters[word])
                word = ""
        if end < 0 or word:
            raise InputError("the bytes end within a character; they are damaged")
        return "".join(text)
