"""The table of ``benchmarks/concepts.py``: means over seeds with their spread. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

COLUMNS = {
    "relations": ("auc", "pr_auc", "precision", "recall", "f1", "ece"),
    "spans": ("entity_precision", "entity_recall", "entity_f1", "relation_f1"),
    "links": ("auc", "mrr", "hits_1", "hits_3", "hits_10"),
}
TITLES = {
    "relations": "Prerequisite relations, split by concept",
    "spans": "Entities and joint relations, strict spans and types",
    "links": "Link prediction",
}
# What others report, with their protocol; not ours, and not always comparable.
PUBLISHED = {
    "spans": (
        "Published: SpERT (Eberts and Ulges 2020, arXiv 1909.07755) on CoNLL04 88.94 entity F1 and "
        "71.47 relation F1 (micro; learned from the training and the development file), on SciERC "
        "70.33 and 50.84 with SciBERT, where a relation need not have the right types of its "
        "entities; both tune a whole encoder of 110 million weights on a GPU. Ours stands on "
        "frozen states unless a row says tuned."
    ),
    "links": (
        "Published filtered marks: ConvE, as its repository TimDettmers/ConvE states, MRR and "
        "Hits@10 on Nations 0.82 and 1.00, on UMLS 0.94 and 0.99, on Kinship 0.83 and 0.98; it "
        "warns that Nations and Kinship hold many inverse relations. The list "
        "irokin/Link-Prediction-Experiment-Results has other MRR for the same sets: on Kinship "
        "ComplEx-N3 0.823, ConvE 0.833 and DistMult 0.516, on UMLS ComplEx-N3 0.838, ConvE 0.797 "
        "and DistMult 0.878. Ours ranks heads and tails against all entities, known triples "
        "filtered, ties counted as the mean rank."
    ),
    "relations": (
        "A pair is tested if either of its concepts was kept out of training (20 % of the "
        "concepts; 15 % for validation). Published figures on these sets mostly split pairs at "
        "random, which is easier; they are not set beside. metacademy lists no negatives: for "
        "every positive three random pairs and its reverse. AL-CPL and LectureBank list negatives."
    ),
}


def as_markdown(facts: Mapping[str, Any]) -> str:
    """Write the page.

    Args:
        facts: ``epochs``, ``model`` and ``rows`` (task, data, method, seed and marks).
    """
    rows = [r for r in facts["rows"] if "error" not in r]
    parts = [
        "# The concept map on public sets",
        "Written by `benchmarks/concepts.py` ([how](../../README.md#the-concept-map)). States of "
        f"{PurePath(facts['model']).name}, frozen unless a row says tuned; at most "
        f"{facts['epochs']} epochs, stopped early on the validation side. Means over the seeds, in "
        "brackets the standard deviation.",
    ]
    for task, columns in COLUMNS.items():
        if own := [r for r in rows if r["task"] == task]:
            parts += [f"## {TITLES[task]}", PUBLISHED[task], _table(own, columns)]
    if left := sorted({f"{r['data']}: {r['error']}" for r in facts["rows"] if "error" in r}):
        parts += ["Left out:", "\n".join(f"- {line}" for line in left)]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    lines = [
        f"| set | method | seeds | {' | '.join(columns)} |",
        f"| --- | --- | ---: | {' | '.join('---:' for _ in columns)} |",
    ]
    for data in dict.fromkeys(r["data"] for r in rows):
        for method in dict.fromkeys(r["method"] for r in rows if r["data"] == data):
            own = [r for r in rows if (r["data"], r["method"]) == (data, method)]
            cells = " | ".join(_cell([r.get(c) for r in own]) for c in columns)
            lines.append(f"| {data} | {method} | {len(own)} | {cells} |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    spread = f" ({statistics.stdev(known):.3f})" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.3f}{spread}"
