"""Corrections of a map: each does what it says, undo takes it back exactly, nothing is lost."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError, DataError
from core.graph import document
from core.graph.decode import is_acyclic
from core.graph.document import OPERATIONS, Corrections, Edit, MapDocument
from core.graph.types import KINDS, RELATIONS, concept_id, key_of

ID = {n: concept_id(n) for n in ("fraction", "denominator", "numerator", "ratio", "polygon")}


def test_a_renamed_concept_keeps_its_id_and_its_old_name_as_an_alias(small):
    now = small.edit(Edit("rename", ID["ratio"], text="ratios and rates")).current()
    concept = now.concept(ID["ratio"])
    assert (concept.name, concept.aliases, concept.state) == (
        "ratios and rates",
        ("ratio",),
        "confirmed",
    )


def test_a_merge_moves_edges_and_mentions_and_leaves_no_loop(small):
    before = small.current()
    now = small.edit(Edit("merge", ID["numerator"], ID["fraction"])).current()
    kept = now.concept(ID["fraction"])
    assert now.concept(ID["numerator"]) is None
    assert "numerator" in kept.aliases
    both = {*before.concept(ID["fraction"]).mentions, *before.concept(ID["numerator"]).mentions}
    assert set(kept.mentions) == both
    assert all(r.source != r.target for r in now.relations)
    assert {r.key for r in now.relations} == {
        ("prerequisite", ID["denominator"], ID["fraction"]),
        ("prerequisite", ID["fraction"], ID["ratio"]),
    }


def test_an_added_concept_is_found_where_it_stands(small):
    now = small.edit(Edit("add", text="Common Denominator")).current()
    added = now.named("common denominators")
    assert added.state == "added"
    texts = [now.passages[m.passage].text[m.start : m.end] for m in added.mentions]
    assert texts == ["common denominator"]


def test_a_removed_concept_takes_its_edges_along(small):
    now = small.edit(Edit("remove", ID["fraction"])).current()
    assert not now.relations
    assert len(now.concepts) == 4


def test_the_teachers_edge_wins_over_found_ones_that_go_against_it(small):
    made = small.edit(Edit("add-relation", ID["ratio"], ID["fraction"], "prerequisite"))
    keys = {r.key for r in made.current().relations}
    assert ("prerequisite", ID["ratio"], ID["fraction"]) in keys
    assert ("prerequisite", ID["fraction"], ID["ratio"]) not in keys
    assert is_acyclic(made.current().relations)


def test_the_teachers_own_edges_must_not_go_round(small):
    made = small.edit(Edit("confirm-relation", ID["fraction"], ID["ratio"], "prerequisite"))
    made = made.edit(Edit("add-relation", ID["ratio"], ID["polygon"], "prerequisite"))
    with pytest.raises(ConfigError, match="comes before"):
        made.edit(Edit("add-relation", ID["polygon"], ID["fraction"], "prerequisite"))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Edit("rename", ID["ratio"], text="Fractions"), "already a concept"),
        (Edit("rename", ID["ratio"], text="  "), "needs a name"),
        (Edit("rename", "c0", text="x"), "not on the map"),
        (Edit("kind", ID["ratio"], text="colour"), "no kind"),
        (Edit("merge", ID["ratio"], ID["ratio"]), "with itself"),
        (Edit("explode", ID["ratio"]), "no correction"),
        (Edit("remove-relation", ID["ratio"], ID["polygon"], "part-of"), "not on the map"),
    ],
)
def test_a_correction_that_makes_no_sense_is_refused_and_changes_nothing(small, edit, said):
    with pytest.raises(ConfigError, match=said):
        small.edit(edit)
    assert small.version == 0


def edits():
    ids, names = st.sampled_from(list(ID.values())), st.sampled_from(["ratio", "sum", "product"])
    kinds = st.sampled_from([*RELATIONS, *KINDS, "sum"])
    return st.builds(Edit, st.sampled_from(list(OPERATIONS)), ids, ids, st.one_of(names, kinds))


@settings(max_examples=60, deadline=None)
@given(st.lists(edits(), max_size=12))
def test_undo_takes_back_exactly_and_no_history_makes_a_cycle(small, wanted):
    states, made = [small.current()], small
    for edit in wanted:
        try:
            made = made.edit(edit)
        except ConfigError:
            continue
        states.append(made.current())
        assert is_acyclic(states[-1].relations)
        keys = [key_of(n) for c in states[-1].concepts for n in c.names]
        ids = {c.id for c in states[-1].concepts}
        assert len(ids) == len(states[-1].concepts)
        assert len(set(keys)) == len(keys)
        assert all({r.source, r.target} <= ids for r in states[-1].relations)
    assert MapDocument.from_json(json.loads(json.dumps(made.to_json()))) == made
    for state in reversed(states):
        assert made.current() == state
        made = made.undo()
    for state in states[1:]:
        made = made.redo()
        assert made.current() == state


def test_a_saved_map_comes_back_whole(small, tmp_path):
    made = small.edit(Edit("confirm", ID["ratio"])).edit(Edit("remove", ID["polygon"])).undo()
    document.save(made, tmp_path / "map.json")
    assert document.load(tmp_path / "map.json") == made


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"base": 1, "format": 1}', '{"base": {}, "format": 1, "edits": []}']
)
def test_what_is_no_map_is_refused_with_a_sentence(tmp_path, text):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(DataError, match="no concept map"):
        document.load(path)


def test_a_map_of_another_version_is_refused(small, tmp_path):
    tree = small.to_json() | {"format": 99}
    with pytest.raises(DataError, match="another version"):
        MapDocument.from_json(tree)


def test_a_new_search_keeps_every_correction(small):
    made = small.edit(Edit("rename", ID["ratio"], text="proportion"))
    made = made.edit(Edit("remove", ID["polygon"]))
    fewer = replace(small.base, concepts=small.base.concepts[:-1])  # no polygon this time
    again = made.rebased(fewer)
    assert again.current().concept(ID["ratio"]).name == "proportion"
    assert [e.op for e in again.unapplied] == ["remove"]
    back = again.rebased(small.base)
    assert not back.unapplied
    assert back.current().concept(ID["polygon"]) is None


def test_an_added_concept_that_is_found_by_itself_now_stays_the_same_one(small):
    made = small.edit(Edit("add", text="Common denominator", other="skill"))
    made = made.edit(Edit("rename", concept_id("common denominator"), text="one denominator"))
    found = made.current().concept(concept_id("common denominator"))
    wider = replace(
        small.base,
        concepts=(*small.base.concepts, replace(found, name="common denominator", aliases=())),
    )
    now = made.rebased(wider).current()
    assert now.concept(found.id).name == "one denominator"
    assert now.concept(found.id).kind == "skill"


def test_corrections_are_read_as_labels(small):
    made = small.edit(Edit("remove", ID["polygon"])).edit(Edit("rename", ID["ratio"], text="rate"))
    made = made.edit(Edit("remove-relation", ID["numerator"], ID["fraction"], "prerequisite"))
    made = made.edit(Edit("add-relation", ID["numerator"], ID["ratio"], "prerequisite"))
    found = Corrections.of(made)
    assert found.refused == {"polygon"}
    assert found.names == {"rate": "concept", "ratio": "concept"}
    assert found.same == {"ratio": "ratio", "rate": "ratio"}
    assert found.relations == {
        ("prerequisite", ID["numerator"], ID["fraction"]): False,
        ("prerequisite", ID["numerator"], ID["ratio"]): True,
    }
