"""``python -m benchmarks.cost``: what a step costs, by size of the model, length and rows.

Random models of Llama's shape, from tiny to small, with a vocabulary of bytes, so that the blocks
and not the embedding table decide; every example has exactly the asked length. One thing changes at
a time. Each measurement is a process of its own, as in ``benchmarks.peers``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers import finished, machine, run_job
from benchmarks.settings import LEAST, NOTES, UNLIMITED, VARIANTS, Job
from benchmarks.table import MB, write_results
from core.config import RunConfig
from core.data import frozen
from core.data.split import split
from core.data.types import Example
from core.errors import StudioError
from core.home import CHECKOUT

EXAMPLES, QUIZ = 40, 4
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Case:
    """One measurement: width and number of blocks, tokens of an example, examples of a step."""

    hidden: int = 256
    blocks: int = 6
    length: int = 128
    rows: int = 4

    @property
    def model(self) -> str:
        """Name of the model's folder."""
        return f"llama-{self.hidden}x{self.blocks}"


SIZES = ((128, 2), (256, 6), (384, 12), (512, 16), (768, 20))
LENGTHS = (64, 128, 256, 512)
ROWS = (1, 2, 4, 8, 16)


def cases() -> list[Case]:
    """Return the middle case and those that differ from it in one thing."""
    found = [Case(hidden=hidden, blocks=blocks) for hidden, blocks in SIZES]
    found += [Case(length=length) for length in LENGTHS]
    found += [Case(rows=rows) for rows in ROWS]
    return list(dict.fromkeys(found))


def make_model(case: Case, folder: Path) -> None:
    """Write a random model of the case's shape with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    build: Any = PreTrainedTokenizerFast
    tokenizer = build(
        tokenizer_object=backend,
        bos_token="<|start|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=TEMPLATE,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=case.hidden,
        intermediate_size=3 * case.hidden,
        num_hidden_layers=case.blocks,
        num_attention_heads=case.hidden // 64,
        num_key_value_heads=max(1, case.hidden // 192),
        max_position_embeddings=2 * max(LENGTHS),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_class(length: int, folder: Path) -> None:
    """Freeze a class whose every example is cut at ``length`` tokens."""
    examples = [
        Example.pair(f"{n:02d}?", f"{n:02d} " + "so it goes on " * length) for n in range(EXAMPLES)
    ]
    frozen.freeze(examples, split(examples, share=QUIZ / EXAMPLES, largest=QUIZ, seed=0), folder)


def jobs(options: argparse.Namespace, work: Path) -> Iterator[tuple[Case, Job]]:
    """Yield every measurement; models and classes are made when they are needed."""
    defaults = RunConfig()
    for case in cases()[: options.cases or None]:
        model, data = work / "models" / case.model, work / f"class-{case.length}"
        if not (model / "tokenizer.json").is_file():
            make_model(case, model)
        make_class(case.length, data)
        job = Job(
            variant="",
            seed=0,
            model=str(model),
            data=str(data),
            out="",
            steps=options.steps,
            rank=defaults.adapter.rank,
            lr=defaults.train.lr,
            tokens_per_step=case.length * case.rows,
            max_length=case.length,
            budget_bytes=0,
            questions=0,
            max_new_tokens=1,
        )
        for variant in options.variants:
            out = work / f"{case.model}-{case.length}-{case.rows}-{variant}"
            told: dict[str, Any] = {"budget_bytes": 1, "or_least": True} if variant == LEAST else {}
            yield case, replace(job, variant=variant, out=str(out), **told)


def as_markdown(document: Mapping[str, Any]) -> str:
    """Return the table of a document with ``machine``, ``steps`` and ``rows``."""
    titles = ["hidden", "blocks", "tokens an example", "examples a step", "variant"]
    table = [[*titles, "peak, MB", "s/step"], ["---:"] * 4 + ["---"] + ["---:"] * 2]
    for row in document["rows"]:
        measured = (
            ["failed", ""]
            if "error" in row
            else [f"{row['peak_bytes'] / MB:.0f}", f"{row['step_seconds']:.2f}"]
        )
        named = [row[k] for k in ("hidden", "blocks", "length", "rows", "variant")]
        table.append([*map(str, named), *measured])
    variants = dict.fromkeys(row["variant"] for row in document["rows"])
    failed = [f"- {r['variant']}: {r['error']}" for r in document["rows"] if "error" in r]
    parts = [
        "# What a step costs",
        "Written by `benchmarks/cost.py`: random models of Llama's shape, a vocabulary of bytes, "
        f"{document['steps']} steps. The peak is that of the whole process, libraries included.",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        "\n".join(f"- `{variant}`: {NOTES[variant]}" for variant in variants),
        *(["Failed:\n\n" + "\n".join(failed)] if failed else []),
        f"Measured on: {', '.join(f'{k} {v}' for k, v in document['machine'].items())}",
    ]
    return "\n\n".join(parts) + "\n"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    add = parser.add_argument
    add("--variants", nargs="+", choices=VARIANTS, default=[UNLIMITED, LEAST, "qlora-fp32"])
    add("--steps", type=int, default=4)
    add("--cases", type=int, default=0, help="only the first so many; 0: all")
    add("--timeout", type=float, default=3600, help="seconds after which a run has failed")
    add("--work", type=Path, help="folder for the runs; finished ones in it are not run again")
    add("--results", type=Path, default=CHECKOUT / "benchmarks" / "results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Entry: 0 if every run succeeded, 1 if not, the code of a :class:`StudioError` otherwise."""
    options = parse(arguments)
    rows = []
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            for case, job in jobs(options, Path(options.work or temporary).resolve()):
                result = finished(job) or run_job(job, options.timeout)
                rows.append({**vars(case), "variant": job.variant, **result})
                sys.stdout.write(f"{case}, {job.variant}: {result.get('error', 'done')}\n")
    except StudioError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    done = [row for row in rows if "error" not in row]
    document = {"machine": machine(done), "steps": options.steps, "rows": rows}
    write_results(options.results, "cost", document, as_markdown(document))
    return int(len(done) < len(rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
