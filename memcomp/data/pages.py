"""Stories from pages of archiveofourown.org that were saved as HTML.

Both kinds of page are read: what "Download > HTML" gives, and the browser's page of an
entire work.

Source: Kuratov et al. 2025, arXiv:2502.13063, appendix B: title, author, summary and notes
at the head, then the chapters' headings and the paragraphs of <div class="userstuff">. The
form of their head is not known; here it is "Title: ...", "Author: ..." and so on.
"""

import html.parser
import pathlib

from memcomp.data.files import whole
from memcomp.errors import InputError

# Elements that say what the text in them is: tag, a word of its class or rel ("" where it
# has neither), role. Other elements take the role of the one that they are in.
_ROLES = (
    ("h1", "", "Title"),
    ("h2", "title", "Title"),
    ("h2", "heading", "chapter"),
    ("h3", "title", "chapter"),
    ("a", "author", "Author"),
    ("blockquote", "userstuff", "notes"),
    ("div", "userstuff", "story"),
    ("div", "meta", ""),  # heads and notes of chapters, within the story
)
_HEAD = ("Title", "Author", "Summary", "Notes")
_BLOCKS = frozenset("div blockquote p h1 h2 h3 h4 h5 h6 dl dt dd ul ol li".split())
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())


def story(path: pathlib.Path) -> str:
    """The text of a page, its whitespace collapsed.

    Raises:
      InputError: the page has no paragraphs of a story.
    """
    page = _Page()
    page.feed(whole(path))
    page.close()
    page.end_block()
    chapters = [text for role, text in page.blocks if role in ("chapter", "paragraph")]
    if all(role != "paragraph" for role, _ in page.blocks):
        raise InputError(
            f'{path} has no story, no <p> in a <div class="userstuff">; save the entire '
            "work of archiveofourown.org as HTML"
        )
    head = [f"{role}: {text}" for role, text in page.blocks if role in _HEAD]
    return " ".join([*head, *chapters])


class _Page(html.parser.HTMLParser):
    """Collects (role, text) of each block, in the order of the page."""

    def __init__(self):
        super().__init__()
        self.blocks: list[tuple[str, str]] = []
        self._open: list[tuple[str, str]] = []  # tag and role of the open elements
        self._role, self._text = "", ""
        self._label = "Notes"  # what the next notes are

    def handle_starttag(self, tag, attrs):
        if tag in _VOID:
            self._text += " "
            return
        if tag in _BLOCKS:
            self.end_block()
            if any(t == "p" for t, _ in self._open):
                self.handle_endtag("p")  # HTML lets </p> be left out
        self._open.append((tag, self._role_of(tag, dict(attrs))))

    def _role_of(self, tag: str, attrs: dict[str, str | None]) -> str:
        role = self._open[-1][1] if self._open else ""
        words = " ".join(attrs.get(k) or "" for k in ("class", "rel")).split()
        if "landmark" in words:
            return ""
        if tag == "p" and role in ("story", "notes"):
            # Notes of chapters, and those at the end, are left out.
            begun = any(r in ("chapter", "paragraph") for r, _ in self.blocks)
            notes = "" if begun else self._label
            return "paragraph" if role == "story" else notes
        here = [r for t, word, r in _ROLES if t == tag and word in (words or [""])]
        return here[0] if here else role

    def handle_endtag(self, tag):
        if tag in _BLOCKS:
            self.end_block()
        if any(t == tag for t, _ in self._open):
            while self._open.pop()[0] != tag:
                pass

    def handle_data(self, data):
        role = self._open[-1][1] if self._open else ""
        if role != self._role:
            self.end_block()
            self._role = role
        self._text += data

    def end_block(self):
        """Ends the text of one role."""
        text = " ".join(self._text.split())
        if not self._role and text.rstrip(":") in ("Summary", "Notes"):
            self._label = text.rstrip(":")
        elif text and self._role in (*_HEAD, "chapter", "paragraph"):
            self.blocks.append((self._role, text))
        self._text = ""
