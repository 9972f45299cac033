"""What happens during a run, as frozen records: appended to ``events.jsonl``, shown by the pages.

An event is replayable: the state of every page is a fold over a run's events, so any number of
pages may read them from any cursor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True)
class Event:
    """Base of all events; ``kind`` is the name under which it is stored."""

    kind: ClassVar[str] = "event"

    def to_json(self) -> dict[str, Any]:
        """Return the event as a plain dictionary with its ``kind``."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class PhaseChanged(Event):
    """The run entered a phase.

    ``phase``: data | profile | plan | load | train | quiz | done; ``share`` is the part of the
    phase already behind us, 0..1; ``detail`` is a short technical note.
    """

    kind: ClassVar[str] = "phase"
    phase: str
    share: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class DataFrozen(Event):
    """The data was frozen and hashed: number of examples, quiz questions, SHA-256."""

    kind: ClassVar[str] = "data"
    train_examples: int
    quiz_examples: int
    sha256: str
    train_tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True)
class Planned(Event):
    """A plan was made; ``plan`` is ``Plan.to_json()``."""

    kind: ClassVar[str] = "plan"
    plan: dict[str, Any]


@dataclass(frozen=True)
class BitsChanged(Event):
    """Stored bits per linear, by name (only those that changed) and why."""

    kind: ClassVar[str] = "bits"
    step: int
    bits: dict[str, int]
    reason: str = ""


@dataclass(frozen=True)
class Requantized(Event):
    """A layer was stored in other bits while training; the change is kept.

    Losses are nats per answer token on examples of the class that the change was not fitted to,
    before and after it.
    """

    kind: ClassVar[str] = "requantized"
    step: int
    layer: str
    from_bits: int
    to_bits: int
    loss_before: float
    loss_after: float


@dataclass(frozen=True)
class RolledBack(Event):
    """A layer was stored in other bits, and taken back: the loss rose too far, or no room."""

    kind: ClassVar[str] = "rolled_back"
    step: int
    layer: str
    from_bits: int
    to_bits: int
    loss_before: float
    loss_after: float | None = None  # None: it was not measured


@dataclass(frozen=True)
class RanksChanged(Event):
    """Active ranks per linear, by name (only those that changed) and why."""

    kind: ClassVar[str] = "ranks"
    step: int
    ranks: dict[str, int]
    reason: str = ""


@dataclass(frozen=True)
class StepDone(Event):
    """One optimizer step.

    ``loss`` is the mean negative log-likelihood per answer token (nats); ``lr`` the learning rate;
    ``tokens_per_second`` counts the tokens of the examples; memory figures are bytes as the
    operating system sees them; ``seconds_left`` is an estimate for the training phase.
    """

    kind: ClassVar[str] = "step"
    step: int
    steps: int
    loss: float
    lr: float
    tokens_per_second: float
    memory_bytes: int
    peak_bytes: int
    seconds: float
    seconds_left: float


@dataclass(frozen=True)
class OptimizerActed(Event):
    """What the parts of a step did beside the optimizer's own rule.

    ``norm`` is the gradient's norm and ``clip`` the factor that it was cut by; ``cautious`` the
    share of numbers that moved (1: all); ``decay`` the decay of a step divided by its rate, by kind
    of layer.
    """

    kind: ClassVar[str] = "optim"
    step: int
    norm: float
    clip: float
    cautious: float
    decay: dict[str, float]


@dataclass(frozen=True)
class TermsAdded(Event):
    """Terms of the objective beside the loss, by name.

    Each with its ``value``, its ``weight`` and the ``share`` that its gradient has of the loss's.
    """

    kind: ClassVar[str] = "penalties"
    step: int
    terms: dict[str, dict[str, float]]


@dataclass(frozen=True)
class WentBack(Event):
    """Steps had no finite gradients: the run went back to an earlier step, at half the rate."""

    kind: ClassVar[str] = "rollback"
    step: int
    to_step: int


@dataclass(frozen=True)
class TermsMeasured(Event):
    """The terms of a step's loss by name: plain values, what each is divided by, its weight."""

    kind: ClassVar[str] = "terms"
    step: int
    values: dict[str, float]
    scales: dict[str, float]
    weights: dict[str, float]


@dataclass(frozen=True)
class Evaluated(Event):
    """Held-out loss at a step (nats per answer token); ``which`` is ``base`` or ``tuned``."""

    kind: ClassVar[str] = "evaluated"
    step: int
    nll: float
    which: str = "tuned"


@dataclass(frozen=True)
class PairsMarked(Event):
    """Marks of a pair model at a step; ``marks`` as :func:`core.evaluate.binary.marks` gives them.

    ``slice`` is ``calibration`` (while training; the threshold is chosen on it) or ``test``.
    """

    kind: ClassVar[str] = "pairs"
    step: int
    slice: str
    marks: dict[str, Any]


@dataclass(frozen=True)
class SampleAnswer(Event):
    """The model's present answer to one held-out question."""

    kind: ClassVar[str] = "sample"
    step: int
    question: str
    answer: str
    reference: str


@dataclass(frozen=True)
class MemoryMeasured(Event):
    """Predicted beside measured peak (bytes), once the first real step is behind us."""

    kind: ClassVar[str] = "memory"
    predicted_bytes: int
    measured_bytes: int
    budget_bytes: int


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A whole checkpoint is on disk."""

    kind: ClassVar[str] = "checkpoint"
    step: int
    path: str


@dataclass(frozen=True)
class VerdictReached(Event):
    """learning | memorising | not_learning | too_early, with the figures it rests on."""

    kind: ClassVar[str] = "verdict"
    step: int
    verdict: str
    train_loss: float
    quiz_loss: float


@dataclass(frozen=True)
class QuizDone(Event):
    """The quiz was marked; ``quiz`` is what ``result.json`` holds under ``quiz``."""

    kind: ClassVar[str] = "quiz"
    quiz: dict[str, Any]


@dataclass(frozen=True)
class Note(Event):
    """Something worth knowing, in one sentence (``code`` for translation)."""

    kind: ClassVar[str] = "note"
    text: str
    code: str = ""


@dataclass(frozen=True)
class StatusChanged(Event):
    """queued | running | paused | stopped | done | failed."""

    kind: ClassVar[str] = "status"
    status: str


@dataclass(frozen=True)
class Failed(Event):
    """The run failed: what happened and the one thing to do."""

    kind: ClassVar[str] = "failed"
    what: str
    action: str
    where: str = ""
    code: str = ""


Emit = Callable[[Event], None]

KINDS: dict[str, type[Event]] = {c.kind: c for c in Event.__subclasses__()}


def event_from_json(record: dict[str, Any]) -> Event:
    """Rebuild an event from ``to_json``; unknown extra keys are ignored.

    Raises:
        KeyError: for an unknown ``kind``.
    """
    cls = KINDS[record["kind"]]
    names = {f.name for f in fields(cls)}
    return cls(**{k: v for k, v in record.items() if k in names})
