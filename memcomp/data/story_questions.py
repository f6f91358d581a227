"""Questions about stories whose one right answer follows from a rule.

A rule is an entry of `RULES`: a pattern that finds a statement, the question about it, and
a pattern of what else could answer the question. The questions have the form of
Prompt-with-Context (`memcomp.data.pwc`), so that a compressor can be fine-tuned and
evaluated on them.

A question is left out unless all of this holds:

* Nothing else in the passage matches the rule's pattern of other answers.
* No other statement of the passage gives another answer to the same question.
* No word of the answer is in the question, except small words such as "the" and "in".

The patterns are regular expressions with two additions. `<phrase>` stands for the pattern
of that name in `PHRASES`, and `<group=phrase>` also captures what it matches.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from memcomp.data.pwc import Question


class Rule(NamedTuple):
    """Rule that turns a statement into a question.

    Attributes:
      kind: "who", "where" or "colour".
      statement: pattern with the group `answer`, and the groups that the question has.
      prompt: question, with names of groups in braces; `{base}` is the infinitive of the
        group `verb`.
      others: pattern of what might give another answer, with names of groups in braces;
        `{alike}` are verbs that can mean the same as the group `verb`. If it matches
        outside the statement, the question is left out.
    """

    kind: str
    statement: str
    prompt: str
    others: str


class Asked(NamedTuple):
    """Question about a passage, and the kind of its rule."""

    kind: str
    question: Question


# Past tense of a verb -> its infinitive, and verbs that can mean the same.
VERBS = {
    "found": ("find", "found|discovered|spotted|noticed"),
    "saw": ("see", "saw|seen|watched|noticed|spotted|looked|found"),
    "wanted": ("want", "wanted|wished|hoped|needed"),
    "liked": ("like", "liked|loved|enjoyed|likes|loves"),
    "loved": ("love", "liked|loved|enjoyed|likes|loves"),
    "made": ("make", "made|built|created"),
    "took": ("take", "took|grabbed|picked|stole|brought"),
    "lost": ("lose", "lost|missed|dropped"),
    "put": ("put", "put|puts|placed|laid"),
    "hid": ("hide", "hid|hidden"),
    "bought": ("buy", "bought|paid|got"),
    "heard": ("hear", "heard|listened"),
    "decided": ("decide", "decided|chose|agreed"),
    "tried": ("try", "tried|attempted"),
}


def _any(words: str) -> str:
    return "|".join(words.split())


PHRASES = {
    # Orange is no answer, because an orange tree need not be orange.
    "colour": _any("red blue green yellow black white brown pink purple gray grey silver"),
    "colour_word": r"\b(?:orange|golden|colorful|colou?rs?|<colour>)\b",
    "verb": "|".join(VERBS),
    # Words that end a phrase such as "a big house".
    "stop": _any(
        "and but so or with where when while near to who that which because for from by at "
        "in on under behind inside into as if until every each all too also together one "
        "was were had he she it they him her his them their its today again alone of out "
        "up what how than more most there here be not very over around through after first"
    ),
    "word": r"(?!<stop>\b)[a-z']+",
    "adjectives": "(?:<word> ){0,3}",
    "no_name": _any(
        "He She It They We You I This That These Those There Then One Everyone Someone "
        "Everybody Nobody Who What And But So The A An His Her Their All Both Now No"
    ),
    "name": r"(?!<no_name>\b)[A-Z][a-z]+",
    "subject": "<name>|[Tt]he <word>",
    "a_noun": "[Aa]n? <adjectives><noun=word>",
    "thing": "(?:an?|the|some|many) <adjectives><word>",
    "to_do": "to (?:<word> ){0,4}<word>",
    "in": _any("in on under behind inside near at"),
    "moved": _any("went ran walked flew swam drove hopped came"),
    "moving": _any(
        "go goes going gone come run rode climbed left arrived returned moved got skipped "
        "raced followed took led reached <moved>"
    ),
    "site": _any(
        "park house home forest woods garden store shop market pond river lake beach sea "
        "ocean kitchen room bedroom school classroom playground zoo farm castle cave town "
        "city village hill mountain meadow field barn yard backyard street bridge tree "
        "library museum hospital bakery pool riverbank shore nest"
    ),
    "its": "(?:an?|the|his|her|their)",
    "in_place": "<in> <its> <adjectives><word><end_of_place>",
    "to_site": "<its> <adjectives><site><end_of_place>",
    "living": r"\bliv(?:e|ed|es|ing)\b",
    "sharing": r"\b(?:too|also|together|both|so did)\b",
    # The start of a sentence, perhaps after "One day,".
    "start": r'(?:^|(?<=[.!?] )|(?<=[.!?]" ))'
    r"(?:(?:One (?:[a-z]+ )?day|Then|Suddenly),? )?",
    # The end of a clause: no more words belong to its last phrase.
    "end": r"(?=[.!]|,? (?:and|but|so|because|when|while)\b)",
    # The same, but not before a further place, which would be right as well.
    "end_of_place": r"(?=[.!]|,(?! <in>\b)| (?:and|but|so|because|when|while|who|to)\b)",
    "end_of_noun": r"(?=[.,!?;]| <stop>\b)",
}


def _expanded(pattern: str) -> str:
    """Puts the patterns of `PHRASES` in the place of their names."""

    def phrase(match: re.Match[str]) -> str:
        group, name = match.groups()
        return f"(?{f'P<{group}>' if group else ':'}{_expanded(PHRASES[name])})"

    return re.sub(r"(?<![?P])<(?:([a-z]+)=)?([a-z_]+)>", phrase, pattern)


# A noun, unless it is one that the statement has introduced, such as "the ball".
_ANOTHER = r"(?<!\bthe )(?<!\bhis )(?<!\bher )(?<!\bits )(?<!\btheir )\b{noun}(?:e?s)?\b"
RULES = (
    Rule(
        "who",
        r"\b<a_noun> (?:named|called) <answer=name>",
        "Who is the {noun}?",
        r"\b(?:an?|another|other|one|two|three|many) (?:[a-z]+ )?(?:[a-z]+ )?{noun}"
        r"|\b{noun}(?:e?s)? (?:named|called)\b|\b{noun}e?s\b",
    ),
    Rule(
        "who",
        "<start><answer=name> <verb=verb> (?P<what><thing>|<to_do>)<end>",
        "Who {verb} {what}?",
        r"\b(?:{alike})\b|<sharing>",
    ),
    Rule(
        "where",
        "<start><who=subject> lived <answer=in_place>",
        "Where did {who} live?",
        "<living>",
    ),
    Rule(
        "where",
        r"\b(?:named|called) <who=name>,? who lived <answer=in_place>",
        "Where did {who} live?",
        "<living>",
    ),
    Rule(
        "where",
        r"\b<a_noun> who lived <answer=in_place>",
        "Where did the {noun} live?",
        f"<living>|{_ANOTHER}",
    ),
    Rule(
        "where",
        r"\b(?P<answer><in> an? <adjectives>(?!time\b)<word>), there (?:was|lived) "
        r"(?P<what>an? <adjectives><word>)(?=[.,!]| (?:named|called|who|that)\b)",
        "Where was there {what}?",
        r"\bthere (?:was|were|lived)\b|<living>",
    ),
    Rule(
        "where",
        "<start><who=name> was (?P<doing>[a-z]+ing) <answer=in_place>",
        "Where was {who} {doing}?",
        r"\b{doing}\b|\b{who} (?:was|were) [a-z]+ing\b",
    ),
    Rule(
        "where",
        "<start><who=subject> <moved> (?:back )?to <answer=to_site>",
        "Where did {who} go?",
        r"\b<moving>\b",
    ),
    Rule(
        "where",
        "<start><who=subject> (?P<verb>found|saw|put|hid|lost) <what=thing> "
        "<answer=in_place>",
        "Where did {who} {base} {what}?",
        r"\b(?:{alike})\b",
    ),
    Rule(
        "colour",
        r"\b<answer=colour> (?P<noun>(?!one\b|thing\b|color\b)<word>(?<!s))<end_of_noun>",
        "What color was the {noun}?",  # as the stories spell it
        rf"(?!\b{{answer}}\b)<colour_word>|(?<!\b{{answer}} ){_ANOTHER}",
    ),
    Rule(
        "colour",
        r"\b<answer=colour> (?P<noun>(?!things\b|ones\b)<word>(?<=[^s]s))<end_of_noun>",
        "What color were the {noun}?",
        rf"(?!\b{{answer}}\b)<colour_word>|(?<!\b{{answer}} ){_ANOTHER}",
    ),
)
KINDS = tuple(dict.fromkeys(rule.kind for rule in RULES))
_STATEMENTS = [re.compile(_expanded(rule.statement)) for rule in RULES]
# The beginning of a story, unless somebody says it.
_OPENING = re.compile(r'(?:(?<=[.!?] )|(?<=[.!?]" ))(?=Once upon a time\b|Once,? there\b)')
_SENTENCE = re.compile(r'(?:(?<=[.!?])|(?<=[.!?]")) (?=["A-Z])')
_SMALL = frozenset("a an the his her their in on under behind inside near at".split())


def stories(text: str) -> list[str]:
    """Cuts a text into stories, each of which begins with "Once upon a time" or the like.

    A story with another beginning stays with the one before it, so that no story is cut.
    Whitespace is collapsed.
    """
    found = _OPENING.split(" ".join(text.split()))
    return [story.strip() for story in found if story.strip()]


def passages(story: str, num_words: int) -> Iterator[str]:
    """Cuts a story into passages of whole sentences, of at most `num_words` words each.

    A sentence with more words is left out.
    """
    passage: list[str] = []
    for sentence in _SENTENCE.split(story):
        words = sentence.split()
        if len(passage) + len(words) > num_words:
            if passage:
                yield " ".join(passage)
            passage = []
        if len(words) <= num_words:
            passage += words
    if passage:
        yield " ".join(passage)


def questions(passage: str) -> list[Asked]:
    """Returns the questions that have one right answer in a passage, in a fixed order."""
    found: dict[str, list[Asked]] = {}
    left_out = set()
    for rule, statement in zip(RULES, _STATEMENTS, strict=True):
        for match in statement.finditer(passage):
            groups = {name: _in_sentence(text) for name, text in match.groupdict().items()}
            base, alike = VERBS.get(groups.get("verb", ""), ("", ""))
            prompt = rule.prompt.format(base=base, **groups)
            question = Question(passage, prompt, groups["answer"])
            found.setdefault(prompt, []).append(Asked(rule.kind, question))
            others = rule.others.format(alike=alike, **groups)
            if _occurs_outside(match, others) or _gives_away(question):
                left_out.add(prompt)
    return [
        same[0]
        for prompt, same in found.items()
        if prompt not in left_out and len({one.question.answer for one in same}) == 1
    ]


def _in_sentence(text: str) -> str:
    """Returns a subject as it is inside a sentence."""
    return "the" + text[3:] if text.startswith("The ") else text


def _occurs_outside(match: re.Match[str], pattern: str) -> bool:
    """Whether a pattern matches before or after a match."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    others = re.compile(_expanded(pattern), re.IGNORECASE)
    return any(others.search(part) for part in (before, after))


def _gives_away(question: Question) -> bool:
    """Whether a word of the answer is in the question, small words aside."""
    words = [set(re.findall(r"[a-z']+", text.lower())) - _SMALL for text in question[1:]]
    return bool(set.intersection(*words))
