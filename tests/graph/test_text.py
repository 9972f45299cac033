"""Where concepts stand in texts: readers of material, weak labels, names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from core.graph import material, phrases
from core.graph.material import Paragraph, passages_of, read_material
from core.graph.names import alias_groups, mentions_in, short_forms
from core.graph.types import Passage, key_of
from tests.data.ingest.questions.test_lists import pdf_of

MARKDOWN = """# Unit 3: Photosynthesis

Photosynthesis is the process by which plants make food.
Chlorophyll is part of the chloroplast.

```python
secret = "code"
```

## Osmosis
**Osmosis**: the movement of water through a membrane.

A common mistake is that plants breathe only at night.
"""


def found_in(text, role="text"):
    passage = Passage(0, text, role)
    return [(text[p.start : p.end], p.kind, p.source) for p in phrases.find_phrases([passage])]


def test_markdown_gives_titles_entries_and_text_with_their_lines(tmp_path):
    path = tmp_path / "unit.md"
    path.write_text(MARKDOWN, "utf-8")
    read = [(p.role, p.where, p.text.split("\n")[0]) for p in read_material(path)]
    assert read == [
        ("title", "line 1", "Photosynthesis"),
        ("text", "line 3", "Photosynthesis is the process by which plants make food."),
        ("title", "line 10", "Osmosis"),
        ("glossary", "line 11", "Osmosis: the movement of water through a membrane."),
        ("text", "line 13", "A common mistake is that plants breathe only at night."),
    ]


def test_plain_text_in_gb18030_is_read_with_its_titles(tmp_path):
    path = tmp_path / "lesson.txt"
    lines = ["第一章 光合作用", "", "光合作用是植物制造有机物的过程。"]
    lines.append("叶绿体：进行光合作用的场所之一。")
    path.write_bytes("\n".join(lines).encode("gb18030"))
    assert [(p.role, p.text[:4]) for p in read_material(path)] == [
        ("title", "光合作用"),
        ("text", "光合作用"),
        ("glossary", "叶绿体："),
    ]


def test_a_word_document_gives_headings_entries_and_text_with_their_paragraphs(tmp_path):
    import docx

    made = docx.Document()
    made.add_heading("Unit 3: Photosynthesis", 1)
    made.add_paragraph("Plants make food of light. They need water.")
    made.add_paragraph("")
    made.add_paragraph("Osmosis: the movement of water through a membrane.")
    row = made.add_table(rows=1, cols=2).rows[0]
    row.cells[0].text, row.cells[1].text = "Xylem", "the tissue that carries water"
    made.save(tmp_path / "unit.docx")
    assert read_material(tmp_path / "unit.docx") == [
        Paragraph("Photosynthesis", "title", "paragraph 1"),
        Paragraph("Plants make food of light. They need water.", "text", "paragraph 2"),
        Paragraph("Osmosis: the movement of water through a membrane.", "glossary", "paragraph 4"),
        Paragraph("Xylem: the tissue that carries water", "glossary", "row 1"),
    ]


def test_lines_of_a_pdf_that_run_on_are_one_sentence(tmp_path):
    lines = ["Photosynthesis", "Photosynthesis is the process by which green plants make"]
    lines += ["their own food of water, light and carbon diox-", "ide. It needs chlorophyll."]
    lines += ["Osmosis: the movement of water through a membrane."]
    (tmp_path / "unit.pdf").write_bytes(pdf_of(lines))
    assert read_material(tmp_path / "unit.pdf") == [
        Paragraph("Photosynthesis", "title", "page 1, line 1"),
        Paragraph(
            "Photosynthesis is the process by which green plants make their own food of water, "
            "light and carbon dioxide. It needs chlorophyll.",
            "text",
            "page 1, line 2",
        ),
        Paragraph(lines[-1], "glossary", "page 1, line 5"),
    ]


@pytest.mark.parametrize("name", ["a.docx", "a.pdf"])
def test_a_damaged_document_is_refused_in_a_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 no document")
    with pytest.raises(DataError) as caught:
        read_material(tmp_path / name)
    assert caught.value.code.split(".")[0] in ("word", "pdf", "package", "archive")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.exe", b"x", "cannot be read"),
        ("a.txt", b"\n \n", "no text"),
        ("a.txt", b"\0\1\2" * 100, "no text"),
        ("missing.txt", None, "cannot be read"),
    ],
)
def test_material_that_cannot_be_used_is_refused_by_its_name(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_material(path)
    assert caught.value.where == name


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=1500))
def test_sentences_lose_no_word_and_none_is_too_long(text):
    parts = material.sentences(text)
    assert "".join("".join(p.split()) for p in parts) == "".join(text.split())
    assert all(0 < len(p) <= material.LONGEST for p in parts)


def test_english_phrases_definitions_skills_and_mistakes():
    told = found_in("Photosynthesis is the process by which green plants make food.")
    assert told[0] == ("Photosynthesis", "concept", "definition")
    assert ("green plants", "concept", "phrase") in told
    assert ("adding fractions", "skill", "skill") in found_in("We practise adding fractions.")
    told = found_in("A common mistake is that plants breathe only at night.")
    assert ("plants breathe only at night", "misconception", "misconception") in told
    assert found_in("What is it?", "question") == []


def test_chinese_phrases_definitions_and_mistakes():
    told = found_in("光合作用是绿色植物制造有机物的过程。")
    assert ("光合作用", "concept", "definition") in told
    told = found_in("误区：植物只在夜里呼吸。")
    assert ("植物只在夜里呼吸", "misconception", "misconception") in told


@pytest.mark.parametrize(
    ("text", "skill"),
    [
        ("妈妈带了30元，买了一条鱼，剩6元，这条鱼多少钱？", "人民币的计算"),
        ("学校有菊花30盆，兰花70盆，一共有多少盆花？", "求总数"),
        ("Tom had 9 apples and 4 are left. How many did he eat?", "finding what is left"),
    ],
)
def test_a_story_gives_the_skill_it_asks_for_and_not_its_props(text, skill):
    passages = [
        Passage(0, text, "question", item=0),
        Passage(1, "There are 4 apples.", "answer", item=0),
    ]
    told = phrases.find_phrases(passages)
    assert skill in [p.name for p in told]
    assert {p.source for p in told} == {"cue"}


def test_labels_never_overlap_and_stand_in_their_text():
    texts = [line for line in MARKDOWN.split("\n") if line]
    passages = [Passage(i, t, "text") for i, t in enumerate(texts)]
    told = phrases.find_phrases(passages)
    assert told
    for a in told:
        assert 0 <= a.start < a.end <= len(texts[a.passage])
        for b in told:
            if a is not b and a.passage == b.passage:
                assert a.end <= b.start or b.end <= a.start


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A whale is a kind of mammal.", ("example-of", "whale", "mammal")),
        ("Mammals such as the whale breathe.", ("example-of", "whale", "mammal")),
        ("The nucleus is part of the cell.", ("part-of", "nucleus", "cell")),
        ("A cell contains a nucleus.", ("part-of", "nucleus", "cell")),
        ("Division requires multiplication.", ("prerequisite", "multiplication", "division")),
        ("鲸是一种哺乳动物。", ("example-of", "鲸", "哺乳动物")),
        ("细胞核是细胞的组成部分。", ("part-of", "细胞核", "细胞")),
        ("乘法是除法的基础。", ("prerequisite", "乘法", "除法")),
        ("The whale saw a mammal.", None),
    ],
)
def test_relations_are_read_off_sentences(text, said):
    names = ["whale", "mammal", "nucleus", "cell", "division", "multiplication"]
    names += ["鲸", "哺乳动物", "细胞核", "细胞", "乘法", "除法"]
    passage = Passage(0, text, "text")
    found = mentions_in({n: n for n in names}, [passage])
    spans = sorted((m.start, m.end, n) for n, listed in found.items() for m in listed)
    assert list(phrases.relations_said(passage, spans)) == ([said] if said else [])


def test_names_are_found_by_whole_words_longest_first():
    passages = [Passage(0, "Adding Fractions needs a fraction; fractional does not count.", "text")]
    names = {"fraction": "f", "adding fractions": "af"}
    found = mentions_in(names, passages)
    cut = {o: [passages[0].text[m.start : m.end] for m in ms] for o, ms in found.items()}
    assert cut == {"af": ["Adding Fractions"], "f": ["fraction"]}


def test_spellings_and_abbreviations_are_one_name():
    shorts = short_forms(["Adaptive rejection sampling (ARS) is used.", "ARS (old) is not."])
    assert list(shorts.values()) == ["Adaptive rejection sampling"]
    counts = {"Fractions": 3, "fraction": 5, "ARS": 4, "adaptive rejection sampling": 1}
    chosen = alias_groups(counts, shorts)
    assert chosen["Fractions"] == chosen["fraction"] == "fraction"
    assert chosen["ARS"] == "adaptive rejection sampling"


@given(st.text(min_size=1, max_size=30))
def test_the_key_of_a_name_is_its_own_key(name):
    assert key_of(key_of(name)) == key_of(key_of(key_of(name)))


def test_passages_keep_their_places(examples):
    passages, questions = passages_of(examples, [("a.md", [Paragraph("T", "title", "line 1")])])
    assert [p.id for p in passages] == list(range(len(passages)))
    assert passages[questions[2].passage].where == "row 4"
    assert (passages[-1].file, passages[-1].item) == ("a.md", -1)
