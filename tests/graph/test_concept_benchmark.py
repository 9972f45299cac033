"""The benchmark of the concept map: resumable, and its parts measure what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import concept_data, concept_links, concept_spans, concepts
from benchmarks.concept_table import as_markdown
from benchmarks.concepts import Cell
from core.errors import DataError
from core.graph.encoder import Encoder
from core.graph.reason import TEST, World


def test_what_is_there_is_not_computed_again(tmp_path):
    wanted = [
        Cell("links", "nations", method, seed) for method in ("none", "gcn") for seed in (0, 1)
    ]
    asked = []

    def compute(cell):
        asked.append(cell)
        return {"mrr": 0.5, "auc": None}

    assert len(concepts.run(wanted, tmp_path, 3, compute)) == 3
    rows = concepts.run(wanted, tmp_path, 99, compute)
    assert asked == wanted
    assert [r["seed"] for r in rows] == [0, 1, 0, 1]
    page = as_markdown({"epochs": 1, "model": "starter", "rows": rows})
    assert "| nations | gcn | 2 |  | 0.500 (0.000) |  |  |  |" in page


def test_a_set_whose_files_are_absent_is_left_out_with_a_sentence(tmp_path):
    def compute(cell):
        return concepts.measure(cell, tmp_path, "", concepts.Size(1, 0, 0))

    rows = concepts.run([Cell("links", "umls", "none", 0)], tmp_path, 1, compute)
    page = as_markdown({"epochs": 1, "model": "starter", "rows": rows})
    assert "The files of umls are absent." in page


def test_every_task_names_all_its_cells():
    listed = list(concepts.cells(("relations", "spans", "links"), (0, 1), ()))
    assert len({c.path(Path()) for c in listed}) == len(listed)
    assert len([c for c in listed if c.task == "relations"]) == 2 * 9 * 7


@pytest.fixture
def triples(tmp_path):
    """Ten entities on a ring: next, and its reverse."""
    rows = [f"e{i}\tnext\te{(i + 1) % 10}" for i in range(10)]
    rows += [f"e{(i + 1) % 10}\tbefore\te{i}" for i in range(10)]
    folder = tmp_path / "kg_triples" / "nations"
    folder.mkdir(parents=True)
    for side, own in (("train", rows), ("valid", rows[:4]), ("test", rows[4:8])):
        (folder / f"{side}.txt").write_text("\n".join(own) + "\n")
    return tmp_path


def test_triples_that_were_learned_rank_first(triples):
    marks = concept_links.measure("nations", "none", 0, triples, 150)
    assert marks["entities"] == 10
    assert marks["asked"] == 8
    assert marks["mrr"] > 0.8
    assert marks["auc"] > 0.9


def test_metacademy_is_a_world_without_a_test_concept_in_training(shared, tiny):
    data = concept_data.read("metacademy", shared / "data")
    assert (len(data.names), len(set(data.pairs))) == (392, len(data.pairs))
    assert not set(data.pairs) & {(b, a) for a, b in data.pairs}
    few = concept_data.Labelled(
        data.names[:30],
        tuple(p for p in data.pairs if max(p) < 30),
        (1,) * sum(max(p) < 30 for p in data.pairs),
        False,
        tuple(t[:80] for t in data.texts[:30]),
    )
    world = concept_data.world_of(few, Encoder(tiny("llama")), 0)
    tested = set(world.pairs[world.side == TEST].ravel().tolist())
    learned = set(world.pairs[world.side == 0].ravel().tolist())
    assert tested - learned


def test_the_direction_of_the_annotated_sets_is_read_from_their_head(tmp_path):
    folder = tmp_path / "al_cpl"
    folder.mkdir()
    head = "concept_a\tconcept_b\tb_is_prerequisite_of_a\n"
    (folder / "physics.tsv").write_text(f"{head}Sound_wave\tWave\t1\nWave\tSound_wave\t0\n")
    data = concept_data.read("al_cpl/physics", tmp_path)
    true = [p for p, t in zip(data.pairs, data.truth, strict=True) if t]
    assert [(data.names[a], data.names[b]) for a, b in true] == [("Wave", "Sound wave")]
    with pytest.raises(DataError, match="absent"):
        concept_data.read("al_cpl/geometry", tmp_path)


def test_shuffled_truth_keeps_its_share_on_every_side():
    draw = np.random.default_rng(0)
    pairs = np.array([(a, b) for a in range(12) for b in range(12) if a != b])
    side = draw.integers(0, 3, len(pairs))
    truth = draw.integers(0, 2, len(pairs))
    empty = (np.zeros((2, 0), np.int64), np.zeros(0, np.int64))
    f = np.zeros((12, 12, 20), np.float32)
    ones = np.ones(len(pairs), np.float32)
    world = World(torch.zeros(12, 4), f, empty, pairs, truth * 0, truth, side, ones, drawn=False)
    mixed = concepts.shuffled(world, 0)
    assert not np.array_equal(mixed.truth, world.truth)
    for one in (0, 1, 2):
        assert mixed.truth[side == one].sum() == truth[side == one].sum()


def test_every_word_gets_the_states_of_its_own_pieces(tiny):
    encoder = Encoder(tiny("llama"))
    words = ("What", "is", "the", "capital", "of", "Frankreich", "?")
    sentence = concept_spans.Sentence(words, ((5, 6, 0),), ())
    states = concept_spans.word_states(encoder, [sentence])[0]
    ids, offsets = encoder.tokens(" ".join(words))
    whole = encoder.forward([ids])[0]
    starts = np.cumsum([0, *(len(w) + 1 for w in words)])
    own = [i for i, (a, b) in enumerate(offsets) if b - 1 >= starts[5] and b <= starts[6] and b > a]
    assert torch.allclose(states[5], whole[own].mean(0), atol=1e-5)


def test_true_spans_and_relations_give_full_marks(tiny, tmp_path):
    rows = [
        {
            "tokens": ["Ann", "works", "for", "Acme"],
            "entities": [{"type": "P", "start": 0, "end": 1}, {"type": "O", "start": 3, "end": 4}],
            "relations": [{"type": "W", "head": 0, "tail": 1}],
        }
    ]
    folder = tmp_path / "conll04"
    folder.mkdir()
    types = {"entities": {"P": {}, "O": {}}, "relations": {"W": {}}}
    (folder / "conll04_types.json").write_text(json.dumps(types))
    for side in ("train", "dev", "test"):
        (folder / f"conll04_{side}.json").write_text(json.dumps(rows))
    encoder = Encoder(tiny("llama"))
    marks = concept_spans.measure("conll04", "frozen", 0, tmp_path, encoder, 40, 0, 0)
    assert (marks["entity_f1"], marks["relation_f1"]) == (1.0, 1.0)
