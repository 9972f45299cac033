"""Step 5: base and tuned side by side, and what the quiz says about both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import StudioError
from studio.api import Downloads
from studio.backend import Backend
from studio.markup import Markup, banner, empty, join, section, tag
from studio.pages.common import QUIET, footer, head, on_enter, script, show
from studio.text import Words

PANES = ("base", "tuned")
MAX_CHARACTERS = 20_000
QUESTIONS_SHOWN = 3
EXAMPLES_SHOWN = 6
MARKS = ("rouge_l", "bleu", "exact_match", "perplexity")

# Both models answer at a time; a second visitor waits for a free place.
_STREAM: dict[str, Any] = {**QUIET, "concurrency_limit": 4, "concurrency_id": "answers"}
_WITH_RUN = "(run, ...rest) => [Studio.run(), ...rest]"

Messages = list[dict[str, Any]]


def build(backend: Backend, words: Words, downloads: Downloads) -> None:
    """Lay the page out and wire it."""
    head(words, "try")
    enter = on_enter("try")
    run_id = gr.Textbox(visible="hidden")
    notice = show(elem_id="try-notice")
    with gr.Row(elem_classes="two", elem_id="chats"):
        panes = [_pane(which, words) for which in PANES]
    with gr.Column(elem_classes="card"):
        suggestions = show(js_on_load=script("ask", "ask"), elem_id="suggestions")
        with gr.Row(elem_classes="inline-row", elem_id="ask-row"):
            message = gr.Textbox(
                label=words("try.message"),
                placeholder=words("try.placeholder"),
                lines=1,
                max_lines=6,
                max_length=MAX_CHARACTERS,
                elem_id="message-box",
                scale=1,
            )
            send = gr.Button(words("try.send"), variant="primary", elem_id="send")
            stop = gr.Button(words("try.stop"), elem_id="stop-answer")
            retry = gr.Button(words("try.retry"), elem_id="retry")
            clear = gr.Button(words("try.clear"), elem_id="clear")
        with gr.Accordion(words("try.sampling"), open=False, elem_classes="plain"), gr.Row():
            temperature = gr.Slider(
                0, 1.5, value=0, step=0.1, label=words("try.temperature"), interactive=True
            )
            top_p = gr.Slider(
                0.1, 1, value=0.95, step=0.05, label=words("try.top_p"), interactive=True
            )
            length = gr.Slider(
                8, 512, value=96, step=8, label=words("try.length"), interactive=True
            )
            seed = gr.Number(value=0, precision=0, label=words("try.seed"), interactive=True)
    quiz = show(elem_id="quiz")
    footer(words, "try", back="train", forward="share")

    sampling = [temperature, top_p, length, seed]

    def answer(which: str) -> Any:
        def stream(run: str, history: Messages, *chosen: Any) -> Iterator[Messages]:
            if not run or not history or history[-1]["role"] != "user":
                return
            yield from _answered(backend, words, run, which, history, chosen)

        return stream

    def ask(text: str, *histories: Messages) -> tuple[Any, ...]:
        asked = text.strip()
        if not asked:
            return (gr.skip(), *(gr.skip() for _ in histories))
        turn = {"role": "user", "content": asked}
        return ("", *([*history, turn] for history in histories))

    def again(number: float, *histories: Messages) -> tuple[Any, ...]:
        return (number + 1, *(_without_last_answer(history) for history in histories))

    def view(event: gr.EventData) -> tuple[str, str, str]:
        return _view(backend, words, str(event.run))

    def stream_both(trigger: Any) -> list[Any]:
        return [
            trigger.then(answer(which), [run_id, pane, *sampling], pane, js=_WITH_RUN, **_STREAM)
            for which, pane in zip(PANES, panes, strict=True)
        ]

    enter.enter(view, None, [notice, suggestions, quiz], **QUIET)
    asked = gr.on(
        [send.click, message.submit],
        ask,
        [message, *panes],
        [message, *panes],
        queue=False,
        **QUIET,
    )
    suggested = suggestions.ask(_text_of, None, message, queue=False, **QUIET).then(
        ask, [message, *panes], [message, *panes], queue=False, **QUIET
    )
    repeated = retry.click(again, [seed, *panes], [seed, *panes], queue=False, **QUIET)
    running = [event for trigger in (asked, suggested, repeated) for event in stream_both(trigger)]
    stop.click(None, None, None, cancels=running, **QUIET)
    clear.click(lambda: [[], []], None, panes, cancels=running, queue=False, **QUIET)


def _pane(which: str, words: Words) -> gr.Chatbot:
    return gr.Chatbot(
        label=words(f"try.{which}"),
        elem_id=f"chat-{which}",
        elem_classes="chat-pane",
        height=360,
        placeholder=words(f"try.{which}_hint"),
        buttons=["copy"],
        feedback_options=None,
        allow_tags=False,
        layout="bubble",
        render_markdown=False,
    )


def _text_of(event: gr.EventData) -> str:
    return str(event.text)


def _plain(content: Any) -> str:
    """Return a message's text: Gradio hands back a list of blocks."""
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content if block.get("type") == "text")


def _turns(history: Messages) -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": _plain(turn["content"])} for turn in history]


def _without_last_answer(history: Messages) -> Messages:
    kept = list(history)
    while kept and kept[-1]["role"] == "assistant":
        kept.pop()
    return kept


def _answered(
    backend: Backend, words: Words, run: str, which: str, history: Messages, chosen: tuple[Any, ...]
) -> Iterator[Messages]:
    """Yield the history with the growing answer; a refusal is shown in the answer's place."""
    temperature, top_p, length, seed = chosen
    options = {
        "temperature": float(temperature),
        "top_p": float(top_p),
        "max_new_tokens": int(length),
        "seed": int(seed or 0),
    }
    text = ""
    yield [*history, {"role": "assistant", "content": "…"}]
    try:
        for message in backend.chat(run, which, turns=_turns(history), **options):
            if message.get("event") == "token":
                text += message["text"]
                yield [*history, {"role": "assistant", "content": text}]
    except StudioError as error:
        text = " ".join(problem.sentence() for problem in words.error(error))
    yield [*history, {"role": "assistant", "content": text or words("try.silent")}]


def _view(backend: Backend, words: Words, run_id: str) -> tuple[str, str, str]:
    """Return notice, suggested questions and quiz of a run."""
    if not run_id:
        return empty(words("try.none"), words("try.none_text")), "", ""
    try:
        run = backend.run(run_id)
    except StudioError as error:
        return banner("bad", words.error(error)[0].sentence()), "", ""
    if run.config.get("method") == "pairs":
        return banner("info", words("try.compares"), words("try.compares_text")), "", ""
    quiz = (run.result or {}).get("quiz") or {}
    notice = "" if run.status == "done" else banner("info", words("try.not_done"))
    return notice, _suggestions(quiz, words), _quiz(quiz, words)


def _suggestions(quiz: dict[str, Any], words: Words) -> Markup:
    answers = (quiz.get("tuned") or {}).get("answers") or []
    buttons = join(
        tag(
            "button",
            _short(a["question"]),
            class_="chip ask",
            type="button",
            data_ask=a["question"],
        )
        for a in answers[:QUESTIONS_SHOWN]
    )
    if not buttons:
        return Markup()
    name = tag("span", words("try.suggest"), class_="ask-name")
    return tag("div", name, buttons, class_="chips")


def _short(text: str, limit: int = 64) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _quiz(quiz: dict[str, Any], words: Words) -> Markup:
    base, tuned = quiz.get("base"), quiz.get("tuned")
    if not base or not tuned:
        return Markup()
    title = section(words("quiz.title"), words("quiz.hint", n=tuned.get("examples", 0)))
    marks = tag(
        "div", *(_mark(name, base, tuned, words) for name in ("marks", *MARKS)), class_="marks"
    )
    body = title + _verdict(quiz, words) + marks
    comparison = quiz.get("comparison") or {}
    for kind in ("better", "worse"):
        body += _changed(comparison.get(kind) or [], kind, words)
    return tag("section", body, class_="card quiz")


def _value(name: str, marks: dict[str, Any]) -> float | None:
    value = marks.get(name)
    return None if value is None else float(value)


def _written(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "exact_match":
        return f"{100 * value:.0f} %"
    return f"{value:.0f}" if name == "marks" else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _mark(name: str, base: dict[str, Any], tuned: dict[str, Any], words: Words) -> Markup:
    before, after = (_written(name, _value(name, marks)) for marks in (base, tuned))
    arrow = tag("span", "→", aria_hidden="true", class_="before")
    pairs = tag(
        "div",
        _mark_of("before", words("quiz.base"), before),
        arrow,
        _mark_of("after", words("quiz.tuned"), after),
        class_="pairs",
    )
    title = tag("span", words(f"quiz.{name}"), class_="name")
    note = tag("span", words(f"quiz.{name}_note"), class_="note")
    return tag("div", title, pairs, note, class_="mark-tile")


def _mark_of(kind: str, whose: str, mark: str) -> Markup:
    return tag("span", tag("span", whose, class_="sr-only"), mark, class_=kind)


def _verdict(quiz: dict[str, Any], words: Words) -> Markup:
    """Say in one sentence whether the class got better, with the interval it rests on."""
    comparison = quiz.get("comparison") or {}
    loss = comparison.get("nll")
    if not loss:
        return Markup()
    low, high = (float(x) for x in loss["interval"])
    kind = "better" if high < 0 else "worse" if low > 0 else "unclear"
    tone = {"better": "good", "worse": "bad", "unclear": "warn"}[kind]
    text = words("quiz.interval", low=f"{-high:.2f}", high=f"{-low:.2f}")
    return banner(tone, words(f"quiz.{kind}"), text)


def _changed(answers: list[dict[str, Any]], kind: str, words: Words) -> Markup:
    title = tag("summary", words(f"quiz.{kind}_list", n=len(answers)))
    if not answers:
        return tag("p", words(f"quiz.{kind}_none"), class_="quiet")
    cards = join(_answer_card(answer, words) for answer in answers[:EXAMPLES_SHOWN])
    inner = tag("div", cards, class_="answers")
    return tag("details", title, inner, class_="more", **({"open": ""} if kind == "better" else {}))


def _answer_card(answer: dict[str, Any], words: Words) -> Markup:
    columns = join(
        tag("div", tag("b", words(f"quiz.{key}")), tag("p", str(answer.get(field) or "–")))
        for key, field in (("reference", "reference"), ("base", "base"), ("tuned", "tuned"))
    )
    return tag(
        "article",
        tag("h3", str(answer["question"])),
        tag("div", columns, class_="pair"),
        class_="answer",
    )
