"""Public evaluation suites: how each is read, asked, learned and marked. No torch in here.

The files are for measuring only. Some have no licence for being passed on, or one for
non-commercial use; so none is part of the project: they are read from ``shared/data`` beside the
checkout, and a suite whose files are absent is left out with a sentence. What is frozen for a run
lies in the benchmark's work folder and nowhere else.

Most files are samples of the published ones (their ``SOURCE.md`` says which), so marks must not be
set beside published ones. How a task is put into a question is our own choice, the same for all.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks import marks
from benchmarks.datasets import SEED, SHARED
from core.data.pairs import Pair, PairSplit, components, split_pairs
from core.data.split import normalised, text_groups
from core.data.types import Example
from core.errors import ConfigError, DataError

csv.field_size_limit(10**7)

LABELS, SPAN, NUMBER, TEXT = "labels", "span", "number", "text"
_SUMS = re.compile(r"<<[^>]*>>")  # GSM8K's notes for a calculator
ALPACA_TEST, CMATH_TEST, QQP_TEST = 0.15, 0.2, 0.2  # shares of files that have no test of their own


@dataclass(frozen=True)
class Item:
    """One example of a suite.

    Attributes:
        question: what is asked, the task's instruction included.
        references: all right answers; the first is the one that is learned.
        label: its number among the suite's labels, -1 without labels.
        pair: the two texts that a pair model reads, if the task is one of labels.
        group: items of one group are never on both sides of a split.
    """

    question: str
    references: tuple[str, ...]
    label: int = -1
    pair: tuple[str, str] = ("", "")
    group: str = ""

    def example(self) -> Example:
        """As an example of a class."""
        return Example.pair(self.question, self.references[0])

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> Item:
        """Rebuild from :meth:`to_json`."""
        listed = {"references": tuple(tree["references"]), "pair": tuple(tree["pair"])}
        return Item(**{**tree, **listed})


Sides = tuple[list[Item], list[Item]]  # learned, marked


@dataclass(frozen=True)
class Suite:
    """One evaluation suite.

    Attributes:
        id: what ``--suites`` takes.
        title: for tables.
        kind: ``labels``, ``span``, ``number`` or ``text``; decides how it is marked.
        files: below ``shared/data``.
        read: from the folder of its files' parent to what is learned and what is marked.
        main: the mark by which methods are compared.
        shown: all marks of its table.
        licence: as its source states it.
        labels: the words that stand for the labels 0 and 1.
        language: ``en`` or ``zh``.
        grouped: gives items their groups, where their file has none; after a sample was drawn.
        max_length: most tokens of an example that is learned or asked.
        max_new_tokens: longest written answer, in tokens.
        note: what to know before reading its marks.
    """

    id: str
    title: str
    kind: str
    files: tuple[str, ...]
    read: Callable[[Path], Sides] = field(repr=False)
    main: str
    shown: tuple[str, ...]
    licence: str
    labels: tuple[str, ...] = ()
    language: str = "en"
    grouped: Callable[[Sequence[Item]], list[Item]] = field(default=list, repr=False)
    max_length: int = 256
    max_new_tokens: int = 64
    note: str = ""

    @property
    def pairs(self) -> bool:
        """Whether a model that reads two texts and gives a label can do it."""
        return self.kind == LABELS

    def marks(self, items: Sequence[Item], answers: Sequence[str]) -> dict[str, float]:
        """Marks of written answers to the items (not of a suite of labels)."""
        references = [item.references for item in items]
        if self.kind == SPAN:
            return marks.span_marks(answers, references, self.language)
        if self.kind == NUMBER:
            return marks.number_marks(answers, references)
        return marks.text_marks(answers, references, with_nist="nist" in self.shown)


@dataclass(frozen=True)
class Material:
    """A suite that was read.

    Attributes:
        suite: which.
        train: what may be learned.
        test: what is marked, and nothing else.
        found: items of both sides in the files.
        leaked: items that were not taken into ``train`` because ``test`` asks the same.
    """

    suite: Suite
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    found: tuple[int, int]
    leaked: int


def suite(suite_id: str) -> Suite:
    """Find a suite.

    Raises:
        ConfigError: names those there are.
    """
    for known in SUITES:
        if known.id == suite_id:
            return known
    raise ConfigError(
        f"There is no suite {suite_id!r}.",
        where="--suites",
        action=f"Choose one of: {', '.join(s.id for s in SUITES)}.",
    )


def load(suite_id: str, shared: Path = SHARED) -> Material:
    """Read a suite.

    Raises:
        ConfigError: for an unknown one.
        DataError: if its files are not on this machine.
    """
    chosen = suite(suite_id)
    absent = [name for name in chosen.files if not (shared / name).is_file()]
    if absent:
        raise DataError(
            f"The suite {chosen.id} is not on this machine: {', '.join(absent)} is missing.",
            where="--suites",
            action="Put its files into shared/data beside the checkout, name that folder with "
            "--shared, or choose another suite.",
        )
    train, test = chosen.read(shared)
    asked = {_key(item) for item in test}
    clean = [item for item in train if _key(item) not in asked]
    found = len(train), len(test)
    return Material(chosen, tuple(clean), tuple(test), found, len(train) - len(clean))


def _key(item: Item) -> Any:
    """What makes two items ask the same; the order of a pair does not."""
    if item.pair[0] and item.pair[1]:
        return frozenset(map(normalised, item.pair))
    return normalised(item.question)


def held_out(items: Sequence[Item], wanted: int, seed: int = SEED) -> Sides:
    """Deal whole groups to a slice of at most ``wanted`` items; returns (the others, the slice).

    Which groups depends on their names and the seed alone. The slice has at least one group.
    """
    members: defaultdict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        members[item.group].append(i)
    drawn = sorted(members, key=lambda g: hashlib.sha256(f"{seed} {g}".encode()).hexdigest())
    chosen: set[int] = set()
    for group in drawn:
        if len(chosen) + len(members[group]) <= wanted:
            chosen.update(members[group])
    if not chosen and drawn:
        chosen.update(members[min(drawn, key=lambda g: len(members[g]))])
    return (
        [x for i, x in enumerate(items) if i not in chosen],
        [x for i, x in enumerate(items) if i in chosen],
    )


def drawn(items: Sequence[Item], number: int, seed: int = SEED) -> list[Item]:
    """At most ``number`` of the items (0: all), in their order."""
    if not number or len(items) <= number:
        return list(items)
    return [items[k] for k in sorted(random.Random(seed).sample(range(len(items)), number))]


# --- files --------------------------------------------------------------------------------------


def _rows(path: Path, *, quoted: bool = False) -> Iterator[dict[str, str]]:
    """Rows of a TSV file under its first line's names; without ``quoted`` a quote is plain text."""
    with path.open(encoding="utf-8", newline="") as file:
        how: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        yield from csv.DictReader(file, delimiter="\t", quoting=how)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _by_text(items: Sequence[Item]) -> list[Item]:
    """Items whose groups are those of (nearly) the same question."""
    grouped = list(items)
    for number, group in enumerate(text_groups([normalised(item.question) for item in items])):
        for i in group:
            grouped[i] = replace(items[i], group=str(number))
    return grouped


def _by_pair(items: Sequence[Item]) -> list[Item]:
    """Items whose groups are the connected components of the texts, linked by the pairs."""
    grouped = list(items)
    for number, group in enumerate(components([Pair(*item.pair, item.label) for item in items])):
        for i in group:
            grouped[i] = replace(items[i], group=str(number))
    return grouped


# --- GLUE and QQP -------------------------------------------------------------------------------


def _sst2(folder: Path) -> Sides:
    def item(row: dict[str, str]) -> Item:
        text, label = row["sentence"].strip(), int(row["label"])
        question = f"Is this film review positive or negative?\n{text}"
        words = ("negative", "positive")[label]
        return Item(question, (words,), label, (text, "The reviewer liked the film."))

    files = (folder / "glue/sst2" / name for name in ("train.tsv", "dev.tsv"))
    train, test = ([item(row) for row in _rows(file)] for file in files)
    return train, test


def _cola(folder: Path) -> Sides:
    def item(row: dict[str, str]) -> Item:
        text, label = row["sentence"].strip(), int(row["label"])
        question = f"Is this sentence acceptable English? Answer yes or no.\n{text}"
        return Item(question, (_YES_NO[label],), label, (text, "The sentence is acceptable."))

    at = folder / "glue/cola"
    names = ("dev_in_domain.tsv", "dev_out_of_domain.tsv")
    train = [item(row) for row in _rows(at / "train.tsv")]
    return train, [item(row) for name in names for row in _rows(at / name)]


_YES_NO = ("no", "yes")


def _two(question: str, first: str, second: str, label: int, marked: bool = False) -> Item:
    """An item of two texts; ``marked``: which is which matters, and is written before them."""
    roles = ("Text: ", "Statement: ") if marked else ("1. ", "2. ")
    asked = f"{question} Answer yes or no.\n{roles[0]}{first}\n{roles[1]}{second}"
    pair = (f"{roles[0]}{first}", f"{roles[1]}{second}") if marked else (first, second)
    return Item(asked, (_YES_NO[label],), label, pair)


def _mrpc(folder: Path) -> Sides:
    def side(name: str) -> list[Item]:
        return [
            _two(
                "Do these two sentences say the same?",
                row["sentence1"].strip(),
                row["sentence2"].strip(),
                int(row["label"]),
            )
            for row in _rows(folder / "glue/mrpc" / name)
        ]

    return side("train.tsv"), side("test.tsv")


def _rte(folder: Path) -> Sides:
    def side(name: str) -> list[Item]:
        return [
            _two(
                "Does the statement follow from the text?",
                row["sentence1"].strip(),
                row["sentence2"].strip(),
                int(row["label"] == "entailment"),
                marked=True,
            )
            for row in _rows(folder / "glue/rte" / name)
        ]

    return side("train.tsv"), side("dev.tsv")


def _qqp_items(path: Path) -> list[Item]:
    return [_question_pair(*_questions(row)) for row in _rows(path, quoted=True)]


def _questions(row: dict[str, str]) -> tuple[str, str, int]:
    return row["question1"].strip(), row["question2"].strip(), int(row["is_duplicate"])


def _question_pair(first: str, second: str, same: int) -> Item:
    return _two("Do these two questions ask the same?", first, second, same)


def _qqp(folder: Path) -> Sides:
    return _qqp_items(folder / "qqp/train.tsv"), _qqp_items(folder / "qqp/test.tsv")


def _qqp_clusters(folder: Path) -> Sides:
    """All pairs of the three files, dealt anew so that no question is on both sides."""
    names = ("train.tsv", "dev.tsv", "test.tsv")
    rows = (_questions(row) for name in names for row in _rows(folder / "qqp" / name, quoted=True))
    pairs = [Pair(*row) for row in dict.fromkeys(rows)]
    sides = split_pairs(pairs, calibration=0.0, test=QQP_TEST, seed=SEED, how="clusters")
    train = [_question_pair(p.first, p.second, p.same) for p in (*sides.train, *sides.calibration)]
    return train, [_question_pair(p.first, p.second, p.same) for p in sides.test]


# --- texts --------------------------------------------------------------------------------------


def _e2e(folder: Path) -> Sides:
    def rows(name: str) -> Iterator[tuple[str, str]]:
        with (folder / "e2e_nlg" / name).open(encoding="utf-8", newline="") as file:
            yield from ((row["mr"].strip(), row["ref"].strip()) for row in csv.DictReader(file))

    def asked(meaning: str) -> str:
        return f"Describe this place.\n{meaning}"

    train = [Item(asked(mr), (ref,), group=mr) for mr, ref in rows("train.csv")]
    known: defaultdict[str, list[str]] = defaultdict(list)
    for mr, ref in rows("test_w_refs.csv"):
        known[mr].append(ref)
    return train, [Item(asked(mr), tuple(refs), group=mr) for mr, refs in known.items()]


def _squad_items(path: Path, language: str) -> list[Item]:
    """Items of a file in the form of SQuAD v1.1; those of one article are one group."""
    asked = "阅读短文，用文中的原话回答。" if language == "zh" else "Answer in words of the text."
    items = []
    for k, article in enumerate(json.loads(path.read_text("utf-8"))["data"]):
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                known = tuple(dict.fromkeys(a["text"].strip() for a in qa["answers"]))
                question = f"{asked}\n\n{paragraph['context'].strip()}\n\n{qa['question'].strip()}"
                items.append(Item(question, known, group=article.get("title") or str(k)))
    return items


def _squad(folder: Path) -> Sides:
    names = ("xquad_en_train.json", "xquad_en_test.json")
    train, test = (_squad_items(folder / "squad" / name, "en") for name in names)
    return train, test


def _squad_zh(folder: Path) -> Sides:
    names = ("xquad_zh_train.json", "xquad_zh_test.json")
    train, test = (_squad_items(folder / "squad" / name, "zh") for name in names)
    return train, test


def _cmrc(folder: Path) -> Sides:
    at = folder / "squad"
    train = [
        item
        for name in ("xquad_zh_train.json", "xquad_zh_test.json")
        for item in _squad_items(at / name, "zh")
    ]
    return train, _squad_items(at / f"{_CMRC}.json", "zh")


def _gsm8k(folder: Path) -> Sides:
    def side(name: str) -> list[Item]:
        return [
            Item(row["question"].strip(), (_SUMS.sub("", row["answer"]).strip(),))
            for row in _lines(folder / "gsm8k" / name)
        ]

    return side("train.jsonl"), side("test.jsonl")


def _cmath(folder: Path) -> Sides:
    """One published file of problems with final numbers alone, cut in two."""
    items = [
        Item(row["input"].strip(), (f"答案是{row['golden'].strip()}",))
        for row in _lines(folder / "zh_math/cmath_dev.jsonl")
    ]
    return held_out(_by_text(items), round(CMATH_TEST * len(items)))


def _alpaca(name: str) -> Callable[[Path], Sides]:
    def read(folder: Path) -> Sides:
        items = []
        for row in _lines(folder / "alpaca" / name):
            asked = "\n".join(filter(None, (row["instruction"].strip(), row["input"].strip())))
            if asked and row["output"].strip():
                items.append(Item(asked, (row["output"].strip(),)))
        return held_out(_by_text(items), round(ALPACA_TEST * len(items)))

    return read


# --- the list -----------------------------------------------------------------------------------

_LABEL_MARKS = ("accuracy", "f1", "mcc")
_SPAN_MARKS = ("em", "f1")
_TEXT_MARKS = ("bleu", "rouge_l", "cer")
_QQP_LICENCE = "terms of Quora, non-commercial"
_CMRC = "cmrc2018_dev_subset"
_SAMPLED = "A sample of the published file."

SUITES: tuple[Suite, ...] = (
    Suite(
        "sst2", "SST-2", LABELS, ("glue/sst2/train.tsv", "glue/sst2/dev.tsv"), _sst2,
        "accuracy", _LABEL_MARKS, "no licence text; research",
        labels=("negative", "positive"), grouped=_by_text,
        note="3,000 of the published training phrases; all of GLUE's development sentences.",
    ),
    Suite(
        "cola", "CoLA", LABELS,
        tuple(f"glue/cola/{n}.tsv" for n in ("train", "dev_in_domain", "dev_out_of_domain")),
        _cola, "mcc", _LABEL_MARKS, "no licence text; research",
        labels=_YES_NO, grouped=_by_text, note="Whole; marked on GLUE's development sentences.",
    ),
    Suite(
        "mrpc", "MRPC", LABELS, ("glue/mrpc/train.tsv", "glue/mrpc/test.tsv"), _mrpc,
        "f1", _LABEL_MARKS, "Microsoft Research data licence; research",
        labels=_YES_NO, grouped=_by_pair, note=_SAMPLED,
    ),
    Suite(
        "rte", "RTE", LABELS, ("glue/rte/train.tsv", "glue/rte/dev.tsv"), _rte,
        "accuracy", _LABEL_MARKS, "none stated; research",
        labels=_YES_NO, grouped=_by_pair,
        note="1,500 of the training pairs; all of GLUE's development pairs.",
    ),
    Suite(
        "qqp", "QQP", LABELS, ("qqp/train.tsv", "qqp/test.tsv"), _qqp,
        "f1", _LABEL_MARKS, _QQP_LICENCE,
        labels=_YES_NO, grouped=_by_pair,
        note="A sample with sides of its own, not those of GLUE.",
    ),
    Suite(
        "qqp-clusters", "QQP, no question on both sides", LABELS,
        tuple(f"qqp/{n}.tsv" for n in ("train", "dev", "test")), _qqp_clusters,
        "f1", _LABEL_MARKS, _QQP_LICENCE,
        labels=_YES_NO, grouped=_by_pair,
        note="The sample's three files pooled; connected components of the graph of questions, "
        "linked by pairs, stay on one side.",
    ),
    Suite(
        "e2e", "E2E NLG", TEXT, ("e2e_nlg/train.csv", "e2e_nlg/test_w_refs.csv"), _e2e,
        "bleu", (*_TEXT_MARKS, "nist"), "CC BY-SA 4.0",
        note="Training texts are of the published development set; 120 meanings of the test set.",
    ),
    Suite(
        "squad", "SQuAD (XQuAD, English)", SPAN,
        ("squad/xquad_en_train.json", "squad/xquad_en_test.json"), _squad,
        "f1", _SPAN_MARKS, "CC BY-SA 4.0", max_length=512, max_new_tokens=32,
        note="A part of SQuAD v1.1's development set, split by article; one reference a question.",
    ),
    Suite(
        "squad-zh", "SQuAD in Chinese (XQuAD)", SPAN,
        ("squad/xquad_zh_train.json", "squad/xquad_zh_test.json"), _squad_zh,
        "f1", _SPAN_MARKS, "CC BY-SA 4.0",
        language="zh", max_length=1024, max_new_tokens=48,
        note="The same articles as in English, translated; split by article.",
    ),
    Suite(
        "cmrc", "CMRC 2018", SPAN,
        tuple(f"squad/{n}.json" for n in ("xquad_zh_train", "xquad_zh_test", _CMRC)),
        _cmrc, "f1", _SPAN_MARKS, "CC BY-SA 4.0",
        language="zh", max_length=1024, max_new_tokens=48,
        note="Learned from the Chinese SQuAD, marked on 1,000 questions of CMRC's development set, "
        "with the marks of XQuAD: CMRC's own F1 counts the longest common substring.",
    ),
    Suite(
        "gsm8k", "GSM8K", NUMBER, ("gsm8k/train.jsonl", "gsm8k/test.jsonl"), _gsm8k,
        "exact", ("exact",), "MIT", grouped=_by_text, max_length=384, max_new_tokens=160,
        note=_SAMPLED + " The calculator's notes are taken out.",
    ),
    Suite(
        "cmath", "CMATH", NUMBER, ("zh_math/cmath_dev.jsonl",), _cmath,
        "exact", ("exact",), "CC BY 4.0", language="zh", max_new_tokens=32,
        note="The published development set has no training side: a fifth of it, by groups of like "
        "questions, is marked. Its answers are numbers without steps.",
    ),
    Suite(
        "alpaca", "Alpaca demo (English)", TEXT, ("alpaca/llamafactory_alpaca_en_demo.jsonl",),
        _alpaca("llamafactory_alpaca_en_demo.jsonl"), "rouge_l", _TEXT_MARKS, "none stated",
        max_length=384, max_new_tokens=96, note="15 % marked, by groups of like questions.",
    ),
    Suite(
        "alpaca-zh", "Alpaca demo (Chinese)", TEXT, ("alpaca/llamafactory_alpaca_zh_demo.jsonl",),
        _alpaca("llamafactory_alpaca_zh_demo.jsonl"), "rouge_l", _TEXT_MARKS, "none stated",
        language="zh", max_length=512, max_new_tokens=96,
        note="15 % marked, by groups of like questions.",
    ),
)  # fmt: skip


def pair_split(
    train: Sequence[Item], calibration: Sequence[Item], test: Sequence[Item]
) -> PairSplit:
    """Items of labels as the slices of a run of the method ``pairs``."""

    def side(items: Sequence[Item]) -> tuple[Pair, ...]:
        return tuple(Pair(*item.pair, item.label) for item in items)

    return PairSplit(side(train), side(calibration), side(test))
