"""Runs side by side: pairs of the same quiz, honest rows, labels, and a table that runs nothing."""

import csv
import io

import pytest

from core.compare import table
from core.compare.table import compare, labels, safe, to_csv, to_json
from core.compare.words import LANGUAGES, Wording

EN = Wording("en")


def seeds(make_entry, losses, **options):
    return [make_entry(seed=k, nll=nll, **options) for k, nll in enumerate(losses)]


def test_a_row_has_median_interval_and_number_of_its_seeds(make_entry):
    found = compare(seeds(make_entry, [0.5, 0.4, 0.6]), EN)
    spread = found.rows[0].cells["nll"].spread
    assert (spread.n, spread.median) == (3, 0.5)
    assert spread.low < 0.4 < 0.6 < spread.high
    assert found.rows[0].cells["nll"].difference is None  # it is the reference itself


def test_differences_are_taken_seed_by_seed(make_entry):
    ours = seeds(make_entry, [0.30, 0.50, 0.40])
    theirs = seeds(make_entry, [0.40, 0.61, 0.50], method="qlora")
    found = compare([*ours, *theirs], EN, reference=theirs[1].id)
    assert found.reference == 1
    gap = found.rows[0].cells["nll"].difference
    assert gap.mean == pytest.approx(-0.31 / 3)
    # The seeds differ far more from each other than the methods do: pairing sees it all the same.
    assert gap.verdict("less") == "better"
    back = compare([*ours, *theirs], EN).rows[1].cells["nll"].difference
    assert back.mean == pytest.approx(-gap.mean)


def test_other_quizzes_are_not_subtracted_and_it_is_said(make_entry):
    found = compare([make_entry(), make_entry("qlora", data="another")], EN)
    assert found.rows[1].cells["nll"].difference is None
    assert EN("notes.data") in found.notes


def test_a_seed_that_only_one_side_has_does_not_count(make_entry):
    found = compare([*seeds(make_entry, [0.5, 0.4]), make_entry("qlora", seed=1, nll=0.3)], EN)
    gap = found.rows[1].cells["nll"].difference
    assert (gap.n, gap.mean) == (1, pytest.approx(-0.1))
    assert gap.verdict("less") == ""


def test_costs_have_a_ratio_and_quality_has_none(make_entry):
    found = compare([make_entry(), make_entry("qlora", peak=400_000_000)], EN)
    assert found.rows[1].cells["peak_bytes"].ratio == 0.5
    assert found.rows[1].cells["nll"].ratio is None


def test_a_failed_run_is_a_row_without_figures(make_entry):
    why = ({"kind": "failed", "what": "It does not fit.", "action": "Use more."},)
    found = compare([make_entry(), make_entry("lora", status="failed", events=why)], EN)
    row = to_json(found, EN)["rows"][1]
    assert (row["done"], row["cells"]) == (0, {})
    assert row["runs"][0]["status"] == "failed"
    assert row["runs"][0]["problem"] == "It does not fit. Use more."
    assert EN("notes.unfinished", n=1, of=2) in found.notes


def test_a_failed_reference_leaves_nothing_to_subtract(make_entry):
    found = compare([make_entry(status="failed"), make_entry("qlora")], EN)
    assert found.rows[1].cells["nll"].difference is None


def test_a_measure_that_nobody_has_is_no_column(make_entry):
    measures = [m.id for m in compare([make_entry(nll=None)], EN).measures]
    assert "nll" not in measures
    assert "mcc" not in measures
    assert "peak_bytes" in measures


def test_a_peak_over_the_limit_is_marked(make_entry):
    found = to_json(compare([make_entry(peak=900_000_001), make_entry("qlora")], EN), EN)
    assert [row["cells"]["peak_bytes"]["over_budget"] for row in found["rows"]] == [True, False]


def test_the_base_model_has_a_loss_only_where_all_asked_the_same(make_entry):
    assert compare([make_entry(), make_entry("qlora")], EN).base_nll == 0.75
    assert compare([make_entry(seed=0), make_entry(seed=1)], EN).base_nll is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_are_named_by_what_tells_them_apart(make_entry, language):
    words = Wording(language)
    entries = [
        make_entry(),
        make_entry(adapter={"rank": 4}),
        make_entry(adapter={"rank": 4, "dynamic": False}),
        make_entry("qlora"),
        make_entry("lora", adapter={"rank": 4}),
    ]
    names = labels([[e] for e in entries], words)
    assert len(set(names)) == len(names)
    rank = words.setting("adapter.rank", 4)
    assert names[0] == words.method("adaq")
    assert names[1] == f"{words.method('adaq')} · {rank}"
    assert names[3] == words.method("qlora")  # what it fixes itself needs no mention
    assert names[4] == f"{words.method('lora')} · {rank}"


def test_what_all_rows_have_in_common_is_in_no_name(make_entry):
    entries = [make_entry(adapter={"rank": 4}), make_entry("qlora", adapter={"rank": 4})]
    assert labels([[e] for e in entries], EN) == [EN.method("adaq"), EN.method("qlora")]


def test_an_unknown_method_keeps_its_id(make_entry):
    entry = make_entry()
    entry.settings["method"] = "tomorrow"
    assert labels([[entry]], EN)[0].startswith("tomorrow")


def rows_of(text):
    return list(csv.reader(io.StringIO(text)))


def test_the_csv_has_every_run_and_every_summary(make_entry):
    entries = [*seeds(make_entry, [0.5, 0.4]), *seeds(make_entry, [0.6, 0.7], method="qlora")]
    head, *lines = rows_of(to_csv(compare(entries, EN), EN))
    assert [line[0] for line in lines] == ["run", "run", "summary", "run", "run", "summary"]
    assert all(len(line) == len(head) for line in lines)
    loss = head.index(EN("measures.nll"))
    assert [float(line[loss]) for line in lines] == pytest.approx([0.5, 0.4, 0.45, 0.6, 0.7, 0.65])
    gap = head.index(f"{EN('measures.nll')} · {EN('columns.difference')}")
    assert [float(line[gap]) for line in lines if line[gap]] == [pytest.approx(0.2)]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|'/c'!A0"])
def test_a_text_that_begins_like_a_formula_is_quoted(make_entry, text):
    assert safe(text) == f"'{text}"
    failed = ({"kind": "failed", "what": text, "action": ""},)
    entries = [make_entry(name=text), make_entry("lora", status="failed", events=failed)]
    for line in rows_of(to_csv(compare(entries, EN), EN)):
        assert not any(cell.startswith(("=", "@", "\t", "\r")) for cell in line)
        assert not any(cell.startswith(("+", "-")) and not is_number(cell) for cell in line)


def is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_numbers_stay_numbers():
    assert safe(-0.25) == -0.25
    assert safe("class 8b") == "class 8b"


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_can_be_read_on_a_terminal(make_entry, language):
    words = Wording(language)
    found = compare([make_entry(), make_entry("qlora", nll=0.25)], words)
    text = "\n".join(table.as_text(found, words))
    assert "0.250" in text
    assert words("is_reference") in text


def test_both_languages_have_the_same_words_with_the_same_fields():
    from string import Formatter

    english, chinese = (Wording(language)._texts for language in LANGUAGES)
    assert set(english) == set(chinese)
    for key, text in english.items():
        fields = [{f for _, f, _, _ in Formatter().parse(t) if f} for t in (text, chinese[key])]
        assert fields[0] == fields[1], key
