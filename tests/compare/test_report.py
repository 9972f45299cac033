"""The report: one whole page in both languages, nothing from outside, all text stays text."""

import re
from html.parser import HTMLParser

import pytest

from core.compare.report import report
from core.compare.table import compare
from core.compare.words import LANGUAGES, Wording

VOID = ("meta", "polyline", "path")


class Page(HTMLParser):
    """Notes what is open, which elements there are, and every address."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "action")]
        assert not any(k.startswith("on") for k, _ in attrs)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_one_whole_page_without_scripts(make_entry, language):
    words = Wording(language)
    entries = [make_entry(seed=k, nll=0.4 + k / 10) for k in range(2)]
    entries += [make_entry("qlora", seed=k, nll=0.6 + k / 10) for k in range(2)]
    html = report(compare(entries, words), words, "2026-01-02 03:04")
    page = Page(html)
    assert page.open == []
    assert page.addresses == []
    assert not {"script", "iframe", "link", "img", "object"} & page.tags
    assert "url(" not in html
    for text in ("0.450", "0.650", "+0.200", words("measures.nll"), "2026-01-02", "class.csv"):
        assert text in html
    assert len(re.findall("<polyline", html)) == 4 + 2  # a curve a run, a key a row
    assert f'lang="{"zh-CN" if language == "zh" else "en"}"' in html


def test_what_people_wrote_stays_text(make_entry):
    evil = "<script>alert(1)</script>"
    failed = ({"kind": "failed", "what": evil, "action": "<b>x</b>"},)
    entries = [
        make_entry(name=evil),
        make_entry("lora", status="failed", name=evil, events=failed),
        make_entry("qlora", distill={"student": evil}),
    ]
    words = Wording("en")
    html = report(compare(entries, words), words, evil)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert Page(html).open == []


def test_a_comparison_of_nothing_finished_is_still_a_page(make_entry):
    words = Wording("en")
    entry = make_entry(status="queued")
    html = report(compare([entry], words), words, "today")
    assert Page(html).open == []
    assert words("notes.unfinished", n=1, of=1) in html


def test_a_failed_run_says_why(make_entry):
    words = Wording("en")
    failed = ({"kind": "failed", "what": "It does not fit.", "action": "Use 1 GB."},)
    entries = [make_entry(), make_entry("lora", status="failed", events=failed)]
    html = report(compare(entries, words), words, "today")
    assert "It does not fit. Use 1 GB." in html
    assert words("failed") in html
