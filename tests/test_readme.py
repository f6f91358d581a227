"""What the documents say of the library is what the library says of itself."""

import pathlib
import re

from memcomp.convert.families import families_table

ROOT = pathlib.Path(__file__).parent.parent


def test_the_table_of_families_is_that_of_the_registry():
    text = (ROOT / "docs" / "families.md").read_text()
    _, rest = text.split("<!-- families -->\n")
    table, _ = rest.split("\n<!-- end of families -->")
    assert table == families_table()


def test_the_readme_is_short_enough_to_be_read():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_page_and_file_that_a_document_links_to_is_there():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), (page.name, link)
