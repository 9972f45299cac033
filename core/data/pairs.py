"""Pairs of questions with the answer to "do they mean the same?". No torch in here.

A pair file is read as every class file is (``core.data.ingest``); three of its columns are taken:
two questions and a label. The pairs are dealt to three slices: ``train`` is learned, on
``calibration`` the threshold and the best checkpoint are chosen, ``test`` is only reported.

Pairs that share a question are linked. Dealt at random, they leak: a question seen with its
label in training comes back in the test. So by default whole connected components of the graph
"questions, linked by pairs" go to one slice.

Shapes: n pairs.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.data.ingest import read_isolated
from core.data.ingest.columns import normal_name
from core.data.messages import Findings, data_error, problem
from core.data.split import DisjointSets, normalised
from core.data.types import ReadResult
from core.errors import DataError, Problem
from core.manifest import whole_folder

VERSION = 1
MANIFEST = "manifest.json"
SLICES = ("train", "calibration", "test")
LEAST_PAIRS = 12

# Names by which the three columns are known, compared without case, signs and spaces.
FIRST = ("question1", "q1", "first", "sentence1", "text1", "s1", "questiona", "sentencea", "texta",
         "问题1", "问题一", "句子1", "句子一", "问句1", "题目1", "文本1", "第一个问题")  # fmt: skip
SECOND = ("question2", "q2", "second", "sentence2", "text2", "s2", "questionb", "sentenceb",
          "textb", "问题2", "问题二", "句子2", "句子二", "问句2", "题目2", "文本2",
          "第二个问题")  # fmt: skip
LABEL = ("label", "isduplicate", "duplicate", "same", "issame", "samequestion", "target", "gold",
         "标签", "相同", "是否相同", "重复", "是否重复", "同义", "是否同义", "一样")  # fmt: skip
_SAME = {"1", "1.0", "yes", "y", "true", "same", "duplicate", "equal",
         "是", "相同", "重复", "一样", "同义", "对"}  # fmt: skip
_OTHER = {"0", "0.0", "no", "n", "false", "different", "other", "not duplicate", "not same",
          "否", "不是", "不同", "不相同", "不重复", "不一样", "不同义", "错"}  # fmt: skip
# What the reader of class files says about questions and answers does not concern pairs.
_OF_A_CLASS = {"guessed_columns", "no_header", "no_question", "no_answer", "no_rejected"}
_OF_A_CLASS |= {"chosen_learned", "chosen_is_rejected"}


@dataclass(frozen=True)
class Pair:
    """Two questions, and whether they mean the same.

    Attributes:
        first: a question.
        second: another one.
        same: 1 if they mean the same, else 0.
        where: its place in the file, in the teacher's words.
    """

    first: str
    second: str
    same: int
    where: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class PairFile:
    """What a pair file turned out to hold.

    Attributes:
        pairs: what can be learned, each pair once.
        columns: the columns found; ``mapping`` those used for ``first``, ``second``, ``label``.
        problems: findings.
        format: as in :class:`~core.data.types.ReadResult`; likewise ``encoding``.
    """

    pairs: tuple[Pair, ...]
    columns: tuple[str, ...]
    mapping: dict[str, str]
    problems: tuple[Problem, ...]
    format: str
    encoding: str

    def to_json(self) -> dict[str, Any]:
        """The document that ``data --pairs --json`` prints."""
        same = sum(p.same for p in self.pairs)
        return {
            "format": self.format,
            "encoding": self.encoding,
            "examples": len(self.pairs),
            "columns": list(self.columns),
            "mapping": self.mapping,
            "problems": [p.to_json() for p in self.problems],
            "health": {
                "same": same,
                "different": len(self.pairs) - same,
                "questions": len({q for p in self.pairs for q in (p.first, p.second)}),
                "components": len(components(self.pairs)),
            },
        }


@dataclass(frozen=True)
class PairSplit:
    """The three slices, each in the order of the file."""

    train: tuple[Pair, ...]
    calibration: tuple[Pair, ...]
    test: tuple[Pair, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 over the slices; places in the file do not count."""
        digest = hashlib.sha256()
        for name in SLICES:
            for pair in getattr(self, name):
                line = json.dumps([name, pair.first, pair.second, pair.same], ensure_ascii=False)
                digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()


def read_pairs(
    path: str | Path,
    *,
    first: str = "",
    second: str = "",
    label: str = "",
    sheet: str = "",
    encoding: str = "",
    name: str = "",
) -> PairFile:
    """Read a file of question pairs in a child process, as class files are read.

    Args:
        path: CSV, TSV, Excel, JSON or JSON Lines.
        first: column of the one question; empty: recognised.
        second: column of the other; empty: recognised.
        label: column that says whether they mean the same; empty: recognised.
        sheet: sheet of a workbook.
        encoding: of the text; empty: recognised.
        name: how the file is called in messages; empty: its name.

    Raises:
        DataError: if nothing in it can be used; carries every finding.
    """
    how: dict[str, Any] = {"sheet": sheet, "encoding": encoding, "label": name}
    found = read_isolated(path, **how)
    chosen = _columns(found, (first, second, label), name or Path(path).name)
    # Once more with these columns: its examples are then the rows whose questions are usable.
    found = read_isolated(path, question=chosen[0], answer=chosen[1], **how)
    findings = Findings()
    pairs = _pairs(found, chosen, findings)
    if not (first and second and label) and _roles(found.columns) != chosen:
        values = dict(zip(("first", "second", "label"), chosen, strict=True))
        findings.add("pairs.guessed", columns=", ".join(found.columns), **values)
    coded = [(p, *p.code.partition(".")) for p in found.problems]
    read = [p for p, kind, _, rest in coded if kind != "health" and rest not in _OF_A_CLASS]
    problems = (*read, *findings.problems())
    _enough(pairs, problems, name or Path(path).name)
    mapping = dict(zip(("first", "second", "label"), chosen, strict=True))
    return PairFile(pairs, found.columns, mapping, problems, found.format, found.encoding)


def label_of(text: str) -> int | None:
    """Return 1 for "the same", 0 for "another", None for neither."""
    word = " ".join(text.casefold().split())
    return 1 if word in _SAME else 0 if word in _OTHER else None


def _enough(pairs: Sequence[Pair], problems: Sequence[Problem], name: str) -> None:
    """Refuse what cannot be split into three slices with both labels."""
    same = sum(p.same for p in pairs)
    values: dict[str, Any] = {"pairs": len(pairs)}
    code = ""
    if len(pairs) < LEAST_PAIRS or 0 < min(same, len(pairs) - same) < len(SLICES):
        code, values["least"] = "pairs.too_few", LEAST_PAIRS
    elif same in (0, len(pairs)):
        code = "pairs.one_kind"
    if code:
        said = problem(code, name, **values)
        raise DataError(
            said.what, where=name, action=said.action, code=code, problems=list(problems)
        )


def _plain(name: str) -> str:
    return normal_name(name).replace("_", "")


def _roles(columns: Sequence[str]) -> tuple[str, str, str] | None:
    """The three columns by their names, or None if one is missing."""
    plain = [_plain(c) for c in columns]
    at = [next((plain.index(k) for k in known if k in plain), -1) for known in (FIRST, SECOND)]
    at.append(next((plain.index(k) for k in LABEL if k in plain), -1))
    return None if min(at) < 0 else (columns[at[0]], columns[at[1]], columns[at[2]])


def _columns(found: ReadResult, asked: tuple[str, str, str], where: str) -> tuple[str, str, str]:
    """The columns asked for, else those with known names, else those that look like it.

    Raises:
        DataError: if there are no such three.
    """
    listed = ", ".join(found.columns)
    by_plain = {_plain(c): c for c in found.columns}
    for name in filter(None, asked):
        if name not in found.columns and _plain(name) not in by_plain:
            raise data_error("table.unknown_column", where, column=name, columns=listed)
    wanted = [n if n in found.columns else by_plain.get(_plain(n), "") for n in asked]
    known = _roles(found.columns) or _look(found)
    chosen = [w or k for w, k in zip(wanted, known or ("", "", ""), strict=True)]
    if not all(chosen) or len(set(chosen)) < 3:
        raise data_error("pairs.columns", where, columns=listed)
    return chosen[0], chosen[1], chosen[2]


def _look(found: ReadResult) -> tuple[str, str, str] | None:
    """The last column that holds labels alone, and the first two that hold texts."""
    rows = [r for r in found.rows[:200] if any(c.strip() for c in r)]
    labels, texts = [], []
    for i, column in enumerate(found.columns):
        cells = [r[i].strip() for r in rows if i < len(r) and r[i].strip()]
        if cells and all(label_of(c) is not None for c in cells):
            labels.append(column)
        elif sum(len(c) > 4 and not c.replace(".", "").isdecimal() for c in cells) * 2 > len(cells):
            texts.append(column)
    return (texts[0], texts[1], labels[-1]) if labels and len(texts) > 1 else None


def _pairs(found: ReadResult, chosen: Sequence[str], findings: Findings) -> tuple[Pair, ...]:
    """Pairs of all rows that can be used; what cannot is named."""
    at = [found.columns.index(c) for c in chosen]
    usable = {e.where for e in found.examples}
    seen: dict[frozenset[str], int] = {}
    pairs = []
    for row, where in zip(found.rows, found.row_where, strict=True):
        first, second, label = (row[i].strip() for i in at)
        if where not in usable:
            if not first or not second:
                findings.add("pairs.empty", where)
            continue  # else its reader has said why
        same = label_of(label)
        if same is None:
            findings.add("pairs.label", where, label=label)
            continue
        key = frozenset((first, second))
        if len(key) == 1:
            findings.add("pairs.equal", where)
        elif key in seen:
            findings.add("pairs.repeated" if seen[key] == same else "pairs.contradiction", where)
        else:
            seen[key] = same
            pairs.append(Pair(first, second, same, where))
    return tuple(pairs)


# --- split ---------------------------------------------------------------------------------------


def components(pairs: Sequence[Pair]) -> list[list[int]]:
    """Return indices of the pairs by connected component, components by their first pair.

    Two pairs are connected if they share a question (compared without case, width, punctuation),
    whatever their labels.
    """
    number: dict[str, int] = {}
    ends = [
        [number.setdefault(normalised(q), len(number)) for q in (p.first, p.second)] for p in pairs
    ]
    sets = DisjointSets(len(number))
    for a, b in ends:
        sets.join(a, b)
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i, (a, _) in enumerate(ends):
        groups[sets.find(a)].append(i)
    return sorted(groups.values())


def split_pairs(
    pairs: Sequence[Pair], *, calibration: float, test: float, seed: int, how: str = "clusters"
) -> PairSplit:
    """Deal pairs to the three slices.

    Which pairs go where depends on their texts and the seed, not on their order. Both held-out
    slices keep the labels' shares as far as whole components allow; components that are larger
    than what is missing stay in training.

    Args:
        pairs: all pairs.
        calibration: wanted part of the pairs.
        test: wanted part of the pairs.
        seed: another seed, other slices.
        how: ``clusters`` (no question of one slice occurs in another) or ``random``.
    """
    groups = components(pairs) if how == "clusters" else [[i] for i in range(len(pairs))]
    drawn = sorted(groups, key=lambda g: _draw(seed, [pairs[i] for i in g]))
    same = sum(p.same for p in pairs) / max(1, len(pairs))
    taken: dict[str, list[int]] = {}
    problems = []
    for name, share in (("test", test), ("calibration", calibration)):
        wanted = round(share * len(pairs))
        taken[name], drawn = _take(pairs, drawn, wanted, max(1, round(wanted * same)))
        if len(taken[name]) < wanted / 2:
            found = problem("pairs.small_slice", pairs=len(taken[name]), slice=name)
            problems.append(found)
    sides = {i: name for name, members in taken.items() for i in members}
    dealt = {
        name: tuple(p for i, p in enumerate(pairs) if sides.get(i, "train") == name)
        for name in SLICES
    }
    return PairSplit(**dealt, problems=tuple(problems))


def _take(
    pairs: Sequence[Pair], groups: Sequence[list[int]], wanted: int, same: int
) -> tuple[list[int], list[list[int]]]:
    """Take whole groups while their labels fit; return the members and the groups left over."""
    room = [max(1, wanted - same), same]
    members: list[int] = []
    left = []
    for group in groups:
        yes = sum(pairs[i].same for i in group)
        if len(group) - yes <= room[0] and yes <= room[1]:
            room = [room[0] - len(group) + yes, room[1] - yes]
            members += group
        else:
            left.append(group)
    return members, left


def _draw(seed: int, group: Iterable[Pair]) -> str:
    texts = sorted(" ".join(sorted((normalised(p.first), normalised(p.second)))) for p in group)
    return hashlib.sha256(f"{seed} {texts}".encode("utf-8", "surrogatepass")).hexdigest()


# --- frozen --------------------------------------------------------------------------------------


def freeze_pairs(sides: PairSplit, folder: Path) -> str:
    """Write the slices and their hashes, all or nothing; returns ``sides.sha256``.

    Raises:
        OSError: if it cannot be written.
    """
    with whole_folder(folder) as staging:
        sums = {}
        for name in SLICES:
            lines = [json.dumps(p.to_json(), ensure_ascii=False) for p in getattr(sides, name)]
            text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
            (staging / f"{name}.jsonl").write_bytes(text)
            sums[f"{name}.jsonl"] = hashlib.sha256(text).hexdigest()
        tree = {"version": VERSION, "kind": "pairs", "sha256": sides.sha256, "files": sums}
        tree["problems"] = [p.to_json() for p in sides.problems]
        (staging / MANIFEST).write_text(json.dumps(tree, indent=2, ensure_ascii=False), "utf-8")
    return sides.sha256


def load_pairs(folder: Path) -> PairSplit:
    """Read what :func:`freeze_pairs` wrote.

    Raises:
        DataError: if a file is missing, was edited or is damaged.
    """
    try:
        tree = json.loads((folder / MANIFEST).read_text("utf-8"))
        slices = {name: _load(folder / f"{name}.jsonl", tree["files"]) for name in SLICES}
        said = [Problem(**{**p, "values": tuple(p["values"].items())}) for p in tree["problems"]]
        sides = PairSplit(**slices, problems=tuple(said))
        whole = sides.sha256 == tree["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder) from error
    if not whole:
        raise _damaged(folder)
    return sides


def is_frozen_pairs(folder: Path) -> bool:
    """Say whether a folder looks like frozen pairs (without checking it)."""
    return (folder / MANIFEST).is_file() and (folder / "calibration.jsonl").is_file()


def _load(path: Path, sums: dict[str, str]) -> tuple[Pair, ...]:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sums[path.name]:
        raise _damaged(path.parent)
    lines = data.decode("utf-8", "surrogatepass").split("\n")
    return tuple(Pair(**json.loads(line)) for line in lines if line)


def _damaged(folder: Path) -> DataError:
    return DataError(
        "The data of this run was changed or damaged after the run began.",
        where=folder.name,
        action="Start a new run from the class file.",
        code="frozen.damaged",
    )
