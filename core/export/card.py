"""The model card of an export: what it is, how it was made, how well it does, how to load it.

Text that a person typed (names, licences) is escaped: it is data, not Markdown. No question or
answer of the class appears in a card, because cards are published and pupils' words are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from core.export.check import Checked

if TYPE_CHECKING:
    from core.export.run import FinishedRun

_WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")"""
_LOAD = {
    "merged": _WHOLE,
    "whole": _WHOLE,
    "full": _WHOLE,
    "peft-dense": """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("FOLDER_OF_THE_BASE_MODEL")
model = PeftModel.from_pretrained(base, "THIS_FOLDER")""",
    "peft-nf4": """from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
)
base = AutoModelForCausalLM.from_pretrained("FOLDER_OF_THE_BASE_MODEL", quantization_config=nf4)
model = PeftModel.from_pretrained(base, "THIS_FOLDER")""",
    "peft-learned": """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("FOLDER_OF_THE_BASE_MODEL")
model = PeftModel.from_pretrained(base, "THIS_FOLDER")""",
    "peft-exact": """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("THIS_FOLDER/base")
model = PeftModel.from_pretrained(base, "THIS_FOLDER")""",
}
_ABOUT = {
    "merged": "The whole tuned model in one folder, its low-rank adapter added to the weights.",
    "whole": "A smaller model that learned from the base model; all of its weights were trained.",
    "full": "The base model, all of its weights trained on the class.",
    "peft-dense": "The adapter as PEFT trained it, for the base model.",
    "peft-nf4": (
        "The adapter as PEFT trained it, for the base model **stored in NF4** by bitsandbytes: "
        "on dense weights it answers otherwise."
    ),
    "peft-learned": (
        "What training changed, as a LoRA adapter for the **original** base model. While training, "
        "the adapter also cancelled errors of the quantized base; that part is left out, since the "
        "original base has no such errors. Answers can therefore differ a little."
    ),
    "peft-exact": (
        "The whole adapter as it was trained, with the base it was trained on: the quantized "
        "weights, written out dense in `base/`. It is right on that base only."
    ),
}
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&$])")


def escaped(text: str) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    return (
        _SPECIAL.sub(r"\\\1", " ".join(text.split()))
        .replace("\\<", "&lt;")
        .replace("\\>", "&gt;")
        .replace("\\&", "&amp;")
    )


def write_card(
    path: Path, run: FinishedRun, form: str, checked: Checked, marks: Mapping[str, Any]
) -> None:
    """Write the card of an export.

    Args:
        path: the file, ``README.md`` of the exported folder.
        run: where it comes from.
        form: merged | whole | full | peft-learned | peft-exact | peft-dense | peft-nf4.
        checked: what comparing its answers with the studio's gave.
        marks: measured after loading it back (empty without a quiz).
    """
    path.write_text(card(run, form, checked, marks), "utf-8", newline="\n")


def card(run: FinishedRun, form: str, checked: Checked | None, marks: Mapping[str, Any]) -> str:
    """Return the card's text; ``form`` may be ``run`` for a card of the run itself."""
    sections = [
        f"---\n{_front_matter(run, form)}---",
        f"# {escaped(run.name)}",
        _ABOUT.get(form, "A language model tuned on a class's own questions and answers."),
        _about(run),
        _marks_table(run, form, marks),
        _checked(form, checked),
        _loading(form),
        _limits(run),
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


def _front_matter(run: FinishedRun, form: str) -> str:
    facts: dict[str, Any] = {
        "library_name": "peft" if form.startswith("peft") else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["edu-adaq-studio", run.config.method, *(["lora"] if "peft" in form else [])],
    }
    if not Path(run.base_info.id).is_absolute():
        facts["base_model"] = run.base_info.id
    if run.base_info.licence:
        facts["license"] = run.base_info.licence
    text: str = yaml.safe_dump(facts, allow_unicode=True, sort_keys=True)
    return text


def _about(run: FinishedRun) -> str:
    result, what = run.result, "weights" if run.whole else "adapter"
    rows = [
        ("Base model", f"{escaped(run.base_info.title)}, {run.base_info.architecture}"),
        ("Licence of the base", escaped(run.base_info.licence) or "not stated"),
        ("Learned", f"{run.train_examples} examples, {result['steps']} steps"),
        ("Held back for the quiz", f"{len(run.quiz)} questions"),
        *_trained(run),
        ("Memory budget", _megabytes(result["budget_bytes"]) or "none"),
        ("Memory at the peak, measured", _megabytes(result["measured_peak_bytes"])),
        (f"SHA-256 of the {what}", f"`{result['adapter_sha256']}`"),
        ("SHA-256 of the data", f"`{run.data_sha256}`"),
    ]
    body = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## How it was made\n\n| | |\n|---|---|\n{body}"


def _trained(run: FinishedRun) -> list[tuple[str, str]]:
    """What was trained, in rows of the table."""
    rows: list[tuple[str, str]] = []
    if run.plan is not None:
        rows.append(("Weights while training", f"{run.plan.average_bits:.2f} bits on average"))
        rows.append(("Adapter rank", f"{run.plan.average_rank:.1f} on average"))
    for who, facts in run.result.get("sizes", {}).items():
        size = f"{_megabytes(facts['bytes'])}, {facts['parameters'] / 1e6:.0f} M weights"
        rows.append((f"Size of the {who}", size))
    return rows


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB" if count else ""


def _marks_table(run: FinishedRun, form: str, marks: Mapping[str, Any]) -> str:
    base, tuned = run.marks.get("base", {}), run.marks.get("tuned", {})
    if not (base and tuned):
        return "## Marks\n\nThe class was too small for a quiz, so nothing was measured."
    columns = [("base model", base), ("in the studio", tuned)]
    if marks and form != "run":
        columns.append(("this export, loaded back", marks))
    lines = [
        "| | " + " | ".join(title for title, _ in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    shown = [
        ("Marks (100 x mean ROUGE-L)", "marks", "{:.1f}"),
        ("Loss per answer token (nats)", "nll", "{:.3f}"),
        ("Perplexity", "perplexity", "{:.2f}"),
        ("BLEU-4", "bleu", "{:.1f}"),
        ("Exact match", "exact_match", "{:.2f}"),
        ("Character error rate", "cer", "{:.2f}"),
    ]
    for title, key, form_of in shown:
        cells = [column.get(key) for _, column in columns]
        if any(cell is not None for cell in cells):
            texts = ["" if cell is None else form_of.format(cell) for cell in cells]
            lines.append(f"| {title} | " + " | ".join(texts) + " |")
    return "## Marks\n\nOn the held-out quiz of the class.\n\n" + "\n".join(
        [*lines, "", *_interval(run), *_export_difference(form, tuned, marks)]
    )


def _interval(run: FinishedRun) -> list[str]:
    found = run.marks.get("comparison", {}).get("nll")
    if not found:
        return []
    low, high = found["interval"]
    return [
        f"Loss, tuned minus base: {found['difference']:+.3f}, 95 % interval {low:+.3f} to "
        f"{high:+.3f} (paired bootstrap over questions).",
    ]


def _export_difference(form: str, tuned: Mapping[str, Any], marks: Mapping[str, Any]) -> list[str]:
    if form != "peft-learned" or not marks:
        return []
    sentence = (
        f"Against the studio, this adapter on the original base: loss "
        f"{marks['nll'] - tuned['nll']:+.3f}"
    )
    if marks.get("marks") is not None and tuned.get("marks") is not None:
        sentence += f", marks {marks['marks'] - tuned['marks']:+.1f}"
    return ["", sentence + "."]


def _checked(form: str, checked: Checked | None) -> str:
    if checked is None:
        return ""
    return (
        f"## Checked\n\nLoaded back after writing: {checked.equal} of {checked.prompts} greedy "
        f"answers (up to {checked.tokens} tokens) are the studio's, character by character."
    )


def _loading(form: str) -> str:
    if form not in _LOAD:
        return ""
    return f"## Loading it\n\n```python\n{_LOAD[form]}\n```"


def _limits(run: FinishedRun) -> str:
    lines = [
        "It was tuned on one class's material and marked on questions held back from it; the marks "
        "say nothing about other topics.",
        "It can repeat what it learned word for word: do not publish it if the class material "
        "holds personal data.",
        "It can be wrong. Read its answers before pupils do.",
    ]
    if run.base_info.note:
        lines.append(escaped(run.base_info.note))
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)
