"""Make the relation scorer that comes with the studio; see SOURCE.md.

    python assets/graph/make_scorer.py DATA [--model MODEL]... [--epochs N]

``DATA`` holds ``metacademy/``, whose licence (CC BY-SA) allows what is learned from it to be passed
on. AL-CPL is for non-commercial use and LectureBank has no licence: neither is learned from here.
For every encoder two models are trained, with message passing and without; the one with the
higher AUC on the validation concepts is used. The test concepts are asked once, at the end.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import concept_data
from core.graph import encoder, reason, scorer
from core.graph.model import Shape

TEST = 0.1  # of the concepts
SOURCE = {
    "data": "metacademy-content by Roger Grosse, Colorado Reed and contributors",
    "licence": "CC BY-SA 3.0",
    "address": "https://github.com/metacademy/metacademy-content",
    "commit": "2654877392cea3857e9fa91ddf896a4a2f5361c8",
}


def make(data: Path, model: str, epochs: int) -> dict[str, Any]:
    """Train and write the scorer for one encoder; return its marks on the test concepts."""
    folder = encoder.folder_of(model)
    loaded = encoder.Encoder(folder)
    labelled = concept_data.read("metacademy", data)
    world = concept_data.world_of(labelled, loaded, 0, test=TEST)
    settings = reason.Settings(epochs=epochs)
    used, models = reason.fit_both([world], Shape(loaded.width), settings, None, _tell)
    blind = replace(world, states=world.states * 0)
    unnamed = {
        name: reason.Fitted(fitted.model, *reason.calibrated(fitted.model, [blind]))
        for name, fitted in models.items()
    }
    marks = {
        name: {"test": _marks(fitted, world), "test_without_names": _marks(unnamed[name], blind)}
        for name, fitted in models.items()
    }
    facts = {**SOURCE, "concepts": world.concepts, "relations": len(world.pairs), "marks": marks}
    name = encoder.ENCODER if folder.name == encoder.ENCODER else folder.name
    scorer.save(scorer.Scorer(name, used, models, facts, unnamed))
    return {"encoder": name, "used": used, **marks}


def _marks(fitted: reason.Fitted, world: reason.World) -> dict[str, Any]:
    scores, truth = reason.answers(fitted.model, [world], reason.TEST)
    return reason.marks(truth, scores, fitted.calibration)


def _tell(share: float) -> None:
    sys.stderr.write(f"\r{share:4.0%}")


def main() -> None:
    """Read the options and make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--epochs", type=int, default=150)
    options = parser.parse_args()
    for model in options.model or ["starter", encoder.ENCODER]:
        made = make(options.data, model, options.epochs)
        sys.stderr.write(f"\n{made}\n")


if __name__ == "__main__":
    main()
