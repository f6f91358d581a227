import pathlib

import pytest

from memcomp.data.pages import story
from memcomp.errors import InputError

PAGES = pathlib.Path(__file__).parent / "pages"
STORY = (
    "Title: The Clockwork Heron Author: A. Writer "
    "Summary: A heron is wound up, & it walks. Notes: Written for a test. "
    "Chapter 1: Spring The heron stood in the reeds. It did not tick\u2014yet. "
    "Chapter 2 \u201cCaf\u00e9,\u201d it said."
)


@pytest.mark.parametrize("page", ["download.html", "browser.html"])
def test_both_kinds_of_page_give_the_head_the_headings_and_the_paragraphs(page):
    assert story(PAGES / page) == STORY


@pytest.mark.parametrize(
    "content", ["", "plain text", "<p>No story.</p>", '<div class="userstuff">x</div>']
)
def test_a_page_without_a_story_is_named(tmp_path, content):
    path = tmp_path / "page.html"
    path.write_text(content)
    with pytest.raises(InputError, match=r"page\.html has no story"):
        story(path)


def test_a_page_that_is_cut_off_keeps_its_last_paragraph(tmp_path):
    path = tmp_path / "page.html"
    path.write_text('</p><div class="userstuff"></b><p>One.<p>Two & three')
    assert story(path) == "One. Two & three"
