"""What the README says of the library is what the library says of itself."""

import pathlib

from memcomp.convert.families import families_table

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_table_of_families_is_that_of_the_registry():
    text = README.read_text()
    _, rest = text.split("<!-- families -->\n")
    table, _ = rest.split("\n<!-- end of families -->")
    assert table == families_table()
