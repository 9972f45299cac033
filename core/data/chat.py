"""Conversations as token ids: template and text apart, answers labelled. No torch in here.

A chat template is rendered by the tokenizer's own sandboxed Jinja with a sentinel in the place of
every message, so the template says where a message goes without ever seeing it. Only what the
template itself wrote may become a control token; what a person wrote is always plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from jinja2 import TemplateError

from core.data.types import Example, Turn
from core.errors import DataError, ModelError

IGNORED = -100  # the label that cross-entropy skips
SHORTEST_ANSWER = 8  # tokens of an answer that must fit, or the example is refused

# Reasoning models start an answer with private thoughts unless told otherwise; a class holds
# answers only, so training, quiz and chat all ask without. Other templates ignore the option.
TEMPLATE_OPTIONS = {"enable_thinking": False}

# For base models without a template of their own.
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}Question: {{ m['content'] }}\n"
    "{% elif m['role'] == 'assistant' %}Answer: {{ m['content'] }}{{ eos_token }}\n"
    "{% else %}{{ m['content'] }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)

_OPEN, _CLOSE = "\ue000", "\ue001"  # private use: no template contains them
_EDGE = "\u2003"  # white space: gone after the sentinel if the template trims its messages
_SENTINEL = re.compile(f"({_EDGE}?){_OPEN}(\\d+){_CLOSE}({_EDGE}?)")

Context = Literal["start", "token", "text"]  # what stands before a stretch of text


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    Attributes:
        ids: token ids, (T,).
        labels: ``ids`` where a token is learned, -100 elsewhere, (T,); not shifted.
        cut: whether something did not fit into ``max_length`` and was left out at the end.
    """

    ids: list[int]
    labels: list[int]
    cut: bool = False


@dataclass(frozen=True)
class _Segment:
    """A stretch of a conversation; ``typed`` by a person, or written by the template."""

    text: str
    typed: bool = False
    learned: bool = False


@dataclass(frozen=True)
class _Piece:
    """A part of a skeleton: template text (``turn`` -1), or the place of a turn's content."""

    text: str = ""
    turn: int = -1
    learned: bool = False
    strip_left: bool = False
    strip_right: bool = False

    def filled(self, turns: Sequence[Turn]) -> _Segment:
        """Return the segment with the turn's content in its place."""
        if self.turn < 0:
            return _Segment(self.text, learned=self.learned)
        content = turns[self.turn].content
        content = content.lstrip() if self.strip_left else content
        content = content.rstrip() if self.strip_right else content
        return _Segment(content, typed=True, learned=self.learned)


class _RefusedError(Exception):
    """The template does not write such a conversation."""


class _Text:
    """Plain text to ids, as the tokenizer would encode it in the middle of a conversation."""

    def __init__(self, tokenizer: Any, shielded: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._shielded = _any_of(shielded)
        self._cache: dict[tuple[str, Context], list[int]] = {}
        self._anchors: dict[Context, str] = {"start": "", "token": "", "text": ""}
        self._learn_anchors()

    def _learn_anchors(self) -> None:
        """Find out where the tokenizer puts a space before text that has none (SentencePiece)."""
        alone = self._raw("a")
        self._anchors["text"] = "\n"
        if self._anchored("a", "text") == alone:
            self._anchors["text"] = ""
        special = self._tokenizer.all_special_tokens
        if special:
            together = self._tokenizer(f"{special[0]}a", add_special_tokens=False)["input_ids"]
            self._anchors["token"] = "" if together[1:] == alone else "\n"

    def _raw(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(ids["input_ids"])

    def _anchored(self, text: str, context: Context) -> list[int]:
        anchor = self._anchors[context]
        if not anchor:
            return self._raw(text)
        before, both = self._raw(anchor), self._raw(anchor + text)
        # a text that starts with a newline melts into the anchor; then it is encoded alone
        return both[len(before) :] if both[: len(before)] == before else self._raw(text)

    def ids(self, run: Sequence[_Segment], context: Context) -> list[int]:
        """Return the ids of adjacent segments without control tokens."""
        parts = list(self._shield(run))
        if any(s.typed for s in run):
            return self._encode(parts, context)
        key = ("\0".join(parts), context)
        if key not in self._cache:
            self._cache[key] = self._encode(parts, context)
        return self._cache[key]

    def _encode(self, parts: Sequence[str], context: Context) -> list[int]:
        ids: list[int] = []
        for part in filter(None, parts):
            ids += self._anchored(part, context)
            context = "text"
        return ids

    def _shield(self, run: Sequence[_Segment]) -> Iterator[str]:
        """Cut typed text inside words that the template uses as control tokens."""
        text = ""
        for segment in run:
            start = 0
            for match in self._shielded.finditer(segment.text) if segment.typed else ():
                yield text + segment.text[start : match.start() + 1]
                text, start = "", match.start() + 1
            text += segment.text[start:]
        yield text


class ChatFormat:
    """How one tokenizer writes conversations.

    Attributes:
        template: the Jinja text in use; what an export must save with its tokenizer.
        end_ids: the tokens that end an answer.
        stop_ids: tokens at which writing an answer stops.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        """Learn the template's parts; use :meth:`of`."""
        self.tokenizer = tokenizer
        self.template = template
        added = tokenizer.added_tokens_decoder
        self._tokens = {t.content: int(i) for i, t in added.items()}
        self._strips = {t.content: (t.lstrip, t.rstrip) for t in added.values()}
        self._added = _any_of(self._tokens)
        self._text = _Text(
            tokenizer,
            # special tokens are never read out of typed text anyway (split_special_tokens);
            # tokens of white space (Gemma's "\n\n") control nothing
            [t.content for t in added.values() if not t.special and _within(template, t.content)],
        )
        self._skeletons: dict[tuple[tuple[str, ...], bool], list[_Piece]] = {}
        self._lead, self._end = "", ""
        self._answer_piece = _Piece(turn=0, learned=True)
        self._learn_answer()
        self.end_ids: list[int] = self._ids([_Segment(self._end)], "text")[0]
        context = self._prompt([Turn("user", "a")])[2]
        self._frame = frozenset(self._ids(self._answer(Turn("assistant", "")), context)[0])
        eos = tokenizer.eos_token_id
        self.stop_ids: list[int] = sorted({*self.end_ids[-1:], *([eos] if eos is not None else [])})

    @staticmethod
    def of(tokenizer: Any, template: str = "") -> ChatFormat:
        """Return the format of a ``transformers`` tokenizer.

        Args:
            tokenizer: a ``PreTrainedTokenizerBase``.
            template: a Jinja chat template, ``"plain"`` for question and answer in plain text, or
                empty for the tokenizer's own (plain if it has none).

        Raises:
            ModelError: if the template cannot be rendered.
        """
        own = tokenizer.chat_template
        own = own.get("default", "") if isinstance(own, dict) else own
        template = "" if template == "plain" else template or own or ""
        try:
            return ChatFormat(tokenizer, template or _leading_bos(tokenizer) + PLAIN_TEMPLATE)
        except _RefusedError as error:
            raise ModelError(
                "The model's chat template cannot write a question and its answer.",
                action="Choose another model, or repair chat_template.jinja in its folder.",
                code="model.chat_template",
            ) from error

    def encode(self, example: Example, max_length: int) -> Encoded:
        """Return the example's tokens; every assistant turn and the token that ends it is learned.

        Nothing follows the last learned token. What is too long is cut at its end: whole turns
        first, then the last answer that remains (which then has no end token).

        Args:
            example: the conversation.
            max_length: most tokens of the result.

        Raises:
            DataError: if the first question leaves no room for its answer, the example has no
                answer, or the template cannot write it.
        """
        answers = [i for i, t in enumerate(example.turns) if t.role == "assistant"]
        if not answers:
            raise DataError(
                "This example has no answer to learn.",
                where=example.where,
                action="Fill in the answer or leave the row out.",
                code="chat.no_answer",
            )
        for last in reversed(answers):
            ids, labels, context = self._prompt(example.turns[:last], example.where)
            answer = self._ids(self._answer(example.turns[last]), context)[0]
            room = max_length - len(ids)
            if room >= min(SHORTEST_ANSWER, len(answer)):
                cut = len(answer) > room or last != answers[-1]
                return Encoded(ids + answer[:room], labels + answer[:room], cut)
        raise DataError(
            f"The question is too long: with its answer it does not fit into {max_length} tokens.",
            where=example.where,
            action="Shorten the question, or raise the longest example in the settings.",
            code="chat.question_too_long",
        )

    def teaches(self, encoded: Encoded) -> bool:
        """Say whether a token of an answer's own text is learned, not only what frames it."""
        frame = {IGNORED, *self._frame}
        return any(label not in frame for label in encoded.labels)

    def encode_prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Return the tokens after which the assistant writes its next turn.

        For ordinary text they equal ``tokenizer.apply_chat_template(...,
        add_generation_prompt=True, enable_thinking=False)``.

        Raises:
            DataError: if the template cannot write such a conversation.
        """
        return self._prompt(turns)[0]

    def _prompt(
        self, turns: Sequence[Turn], where: str = ""
    ) -> tuple[list[int], list[int], Context]:
        """Return ids, labels and what the prompt ends with."""
        turns = [t for t in turns if t.content.strip()]
        try:
            segments = self._segments(turns)
        except _RefusedError:
            try:
                segments = self._segments(_simplified(turns))
            except _RefusedError as error:
                raise DataError(
                    "The model's chat template cannot write this conversation.",
                    where=where,
                    action="Let it start with a question and take turns.",
                    code="chat.conversation",
                ) from error
        return self._ids(segments, "start")

    def _answer(self, turn: Turn) -> list[_Segment]:
        """Return the last answer with what leads it in and ends it."""
        content = self._answer_piece.filled([turn])
        return [_Segment(self._lead, learned=True), content, _Segment(self._end, learned=True)]

    def _learn_answer(self) -> None:
        """Find what stands between the generation prompt and an answer, and what ends an answer.

        The end is taken from an answer in the middle of a conversation: some templates (GLM)
        end a turn with the control token that opens the next one.
        """
        middle = self._skeleton(("user", "assistant", "user"), prompt=False)
        at = next(i for i, p in enumerate(middle) if p.turn == 1)
        self._answer_piece = replace(middle[at], turn=0, learned=True)
        after = middle[at + 1].text if middle[at + 1].turn < 0 else ""
        match = self._added.search(after)
        self._end = after[: match.end()] if match else (self.tokenizer.eos_token or "")
        before = middle[at - 1].text if middle[at - 1].turn < 0 else ""
        opening = self._skeleton(("user",), prompt=True)[-1].text
        self._lead = before.removeprefix(opening) if before.startswith(opening) else ""
        self._skeletons.clear()  # made before lead and end were known

    def _segments(self, turns: Sequence[Turn]) -> list[_Segment]:
        skeleton = self._skeleton(tuple(t.role for t in turns), prompt=True)
        return [piece.filled(turns) for piece in skeleton]

    def _skeleton(self, roles: tuple[str, ...], *, prompt: bool) -> list[_Piece]:
        """Return the rendered template around the places of the turns' contents."""
        if (roles, prompt) not in self._skeletons:
            pieces = list(_pieces(self._render(roles, prompt=prompt)))
            if {p.turn for p in pieces} != {*range(-1, len(roles))}:
                raise _RefusedError  # a message left out in silence
            self._skeletons[roles, prompt] = list(self._with_learned(pieces, roles))
        return self._skeletons[roles, prompt]

    def _render(self, roles: tuple[str, ...], *, prompt: bool) -> str:
        messages = [
            {"role": role, "content": f"{_EDGE}{_OPEN}{i}{_CLOSE}{_EDGE}"}
            for i, role in enumerate(roles)
        ]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=prompt,
                    **TEMPLATE_OPTIONS,
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise _RefusedError from error

    def _with_learned(self, pieces: list[_Piece], roles: tuple[str, ...]) -> Iterator[_Piece]:
        """Mark what is learned of earlier answers: lead-in, content and end."""
        is_answer = [p.turn >= 0 and roles[p.turn] == "assistant" for p in pieces]
        for i, piece in enumerate(pieces):
            if piece.turn >= 0:
                yield replace(piece, learned=is_answer[i])
                continue
            text, tail = piece.text, ""
            if i and is_answer[i - 1] and self._end and text.startswith(self._end):
                yield _Piece(self._end, learned=True)
                text = text.removeprefix(self._end)
            if i + 1 < len(pieces) and is_answer[i + 1] and text.endswith(self._lead):
                text, tail = text.removesuffix(self._lead), self._lead
            yield _Piece(text)
            if tail:
                yield _Piece(tail, learned=True)

    def _ids(
        self, segments: Sequence[_Segment], context: Context
    ) -> tuple[list[int], list[int], Context]:
        """Return ids, labels and what they end with.

        Text is cut where learning starts and ends, as it is in generation.
        """
        ids: list[int] = []
        labels: list[int] = []
        swallows = False  # whether the token before takes the white space after it
        atoms = [atom for s in segments for atom in self._atoms(s)]
        runs = [(k, list(g)) for k, g in groupby(atoms, lambda a: (self._is_token(a), a.learned))]
        for at, ((is_token, learned), run) in enumerate(runs):
            new: list[int] = []
            if is_token:
                new = [self._tokens[a.text] for a in run]
                swallows, context = self._strips[run[-1].text][1], "token"
            elif run := _stripped(run, swallows, self._swallows_before(runs[at + 1 : at + 2])):
                new = self._text.ids(run, context)
                swallows, context = False, "text"
            ids += new
            labels += new if learned else [IGNORED] * len(new)
        return ids, labels, context

    def _swallows_before(self, following: list[tuple[tuple[bool, bool], list[_Segment]]]) -> bool:
        """Say whether a token follows that takes the white space before it."""
        return any(k[0] and self._strips[run[0].text][0] for k, run in following)

    def _atoms(self, segment: _Segment) -> list[_Segment]:
        """Split template text at its control tokens; typed text has none."""
        if segment.typed:
            return [segment] if segment.text else []
        texts = _split_keeping(self._added, segment.text)
        return [replace(segment, text=t) for t in texts if t]

    def _is_token(self, atom: _Segment) -> bool:
        return not atom.typed and atom.text in self._tokens


def _within(template: str, token: str) -> bool:
    """Say whether a template uses a token (templates may leave its white space out)."""
    return bool(token.strip()) and token.strip() in template


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of any of the words, the longest first; of nothing if there are none."""
    alternatives = sorted(filter(None, words), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, alternatives)) if alternatives else r"(?!)")


def _split_keeping(pattern: re.Pattern[str], text: str) -> list[str]:
    """Split text at the matches and keep them as parts of their own."""
    parts, start = [], 0
    for match in pattern.finditer(text):
        parts += [text[start : match.start()], match.group()]
        start = match.end()
    return [*parts, text[start:]]


def _pieces(rendered: str) -> Iterator[_Piece]:
    start = 0
    for match in _SENTINEL.finditer(rendered):
        yield _Piece(rendered[start : match.start()])
        left, turn, right = match.groups()
        yield _Piece(turn=int(turn), strip_left=not left, strip_right=not right)
        start = match.end()
    yield _Piece(rendered[start:])


def _stripped(run: list[_Segment], left: bool, right: bool) -> list[_Segment]:
    """Take white space from the ends of a run (tokens that swallow the space beside them)."""
    run = list(run)
    if left:
        while run and not run[0].text.lstrip():
            run.pop(0)
        run[:1] = [replace(s, text=s.text.lstrip()) for s in run[:1]]
    if right:
        while run and not run[-1].text.rstrip():
            run.pop()
        run[-1:] = [replace(s, text=s.text.rstrip()) for s in run[-1:]]
    return run


def _simplified(turns: Sequence[Turn]) -> list[Turn]:
    """Write system messages into the next question and join neighbours of one role.

    For templates that know no system role or insist on taking turns (Gemma, Llama 2).
    """
    merged: list[Turn] = []
    for turn in turns:
        role = "user" if turn.role == "system" else turn.role
        if merged and merged[-1].role == role:
            merged[-1] = Turn(role, f"{merged[-1].content}\n\n{turn.content}")
        else:
            merged.append(Turn(role, turn.content))
    return merged


def _leading_bos(tokenizer: Any) -> str:
    """Return the Jinja text for the token that this tokenizer puts before plain text, if any."""
    first = tokenizer("a")["input_ids"][:1]
    starts = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    return "{{ bos_token }}" if starts else ""
