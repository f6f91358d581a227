"""Damage to the bytes of a file, for property tests."""

from hypothesis import strategies as st


@st.composite
def damaged(draw, blob):
    """Bytes of which some are changed, dropped, added or cut off."""
    blob = bytearray(blob)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(blob) - 1, 0)))
        match draw(st.sampled_from(["flip", "set", "drop", "add", "cut"])):
            case "flip" if blob:
                blob[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if blob:
                blob[at] = draw(st.integers(0, 255))
            case "drop":
                del blob[at : at + draw(st.integers(1, 8))]
            case "add":
                blob[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del blob[at:]
    return bytes(blob)
