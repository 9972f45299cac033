"""``python -m benchmarks.peer_process JOB.json``: one peer, alone in its process.

It loads, trains with TRL's ``SFTTrainer``, notes the peak of its memory, and only then marks the
quiz, with the studio's own code: on some CPUs bitsandbytes repacks its weights in the first
evaluation pass, after which nothing can be trained any more.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import AdaLoraConfig, LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from benchmarks.adalora import trained_numbers
from benchmarks.child import computing, seconds_alive, write_result
from benchmarks.settings import PEERS, Job, Peer
from core import modelload, models
from core.adapters.peers import adalora_schedule, orthogonality, start_as_loftq
from core.data.chat import ChatFormat, Encoded
from core.data.frozen import load_frozen
from core.data.packing import count_steps
from core.data.types import Example
from core.errors import DataError
from core.evaluate.quiz import mark
from core.process import peak_bytes

ALPHA = 2.0  # lora_alpha over rank, the usual choice


@dataclass
class Lesson:
    """The class as a peer sees it: the studio's tokens, so that all learn the very same."""

    path: Path
    tokenizer: Any
    chat: ChatFormat
    train: list[Encoded]
    quiz: Sequence[Example]


def read_lesson(job: Job) -> Lesson:
    """Encode the frozen data; what does not fit into ``max_length`` is left out, as in ours."""
    path = models.ensure_local(models.resolve(job.model))
    tokenizer = modelload.load_tokenizer(path)
    chat = ChatFormat.of(tokenizer)
    sides = load_frozen(Path(job.data))
    train = []
    for example in sides.train:
        try:
            train.append(chat.encode(example, job.max_length))
        except DataError:
            continue
    return Lesson(path, tokenizer, chat, train, sides.quiz)


def batch_size(encoded: list[Encoded], tokens_per_step: int) -> int:
    """Return how many examples ours sees in a step, on average."""
    steps = count_steps([len(e.ids) for e in encoded], tokens_per_step)
    return max(1, round(len(encoded) / steps))


def load_base(path: Path, peer: Peer) -> Any:
    """Return the base model, for QLoRA and LoftQ with NF4 linear layers, doubly quantized."""
    dtype = getattr(torch, peer.dtype)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        quantization_config=quantization if peer.quantized else None,
        device_map={"": "cpu"},
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )


def adapter_config(peer: Peer, job: Job) -> LoraConfig:
    """Return PEFT's settings: every linear layer of the blocks, no dropout, the rank budget."""
    common: dict[str, Any] = {
        "target_modules": "all-linear",
        "lora_alpha": ALPHA * job.rank,
        "lora_dropout": 0.0,
        "task_type": "CAUSAL_LM",
    }
    if peer.method != "adalora":
        return LoraConfig(r=job.rank, **common)
    return AdaLoraConfig(**adalora_schedule(job.rank, job.steps), **common)


def training_arguments(peer: Peer, job: Job, batch: int) -> SFTConfig:
    """Return TRL's settings; what is not named here is TRL's default."""
    return SFTConfig(
        output_dir=str(Path(job.out) / "trainer"),
        max_steps=job.steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        gradient_checkpointing=peer.checkpointing,
        completion_only_loss=True,
        max_length=job.max_length,
        learning_rate=job.lr,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=round(0.06 * job.steps),
        max_grad_norm=1.0,
        weight_decay=0.0,
        bf16=peer.dtype == "bfloat16",
        use_cpu=True,
        seed=job.seed,
        data_seed=job.seed,
        include_num_input_tokens_seen="non_padding",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class Stopwatch(TrainerCallback):
    """Seconds from the first step's beginning to the last one's end."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._begun = time.monotonic()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds = time.monotonic() - self._begun


class RankAllocation(TrainerCallback):
    """Lets AdaLoRA move its ranks: after the optimizer's step, while there are gradients."""

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Count from 1, since the last step is the one that fixes the ranks."""
        model.base_model.update_and_allocate(state.global_step + 1)


class AdaLoraTrainer(SFTTrainer):
    """Adds AdaLoRA's orthogonal regularization to the loss.

    PEFT adds it to ``outputs.loss``, but TRL computes its loss from the log-probabilities.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss with the regularization (and the outputs if asked for)."""
        loss, outputs = super().compute_loss(  # type: ignore[no-untyped-call]
            model, inputs, True, num_items_in_batch
        )
        loss = loss + orthogonality(model)
        return (loss, outputs) if return_outputs else loss


def make_trainer(job: Job, lesson: Lesson, watch: Stopwatch) -> SFTTrainer:
    """Return the trainer of a peer, ready to start."""
    peer = PEERS[job.variant]
    batch = batch_size(lesson.train, job.tokens_per_step)
    is_adalora = peer.method == "adalora"
    rows = Dataset.from_list([{"input_ids": e.ids, "labels": e.labels} for e in lesson.train])
    torch.manual_seed(job.seed)
    trainer = (AdaLoraTrainer if is_adalora else SFTTrainer)(
        model=load_base(lesson.path, peer),
        args=training_arguments(peer, job, batch),
        train_dataset=rows,
        processing_class=lesson.tokenizer,
        peft_config=adapter_config(peer, job),
        callbacks=[watch, RankAllocation()] if is_adalora else [watch],
    )
    if peer.method == "loftq":
        start_as_loftq(trainer.model, modelload.Weights(lesson.path))
    if peer.dtype == "float32":
        # TRL rounds the adapter of a quantized model to bfloat16, also where all else is float32.
        model: Any = trainer.model
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


def train_and_mark(job: Job) -> dict[str, Any]:
    """Run a peer; see ``benchmarks/README.md`` for the fields of the result."""
    lesson, watch = read_lesson(job), Stopwatch()
    trainer = make_trainer(job, lesson, watch)
    trainer.train()
    peak, tokens = peak_bytes(), int(trainer.state.num_input_tokens_seen)
    adapter, tuned = Path(job.out) / "adapter", cast(Any, trainer.model)
    numbers = trained_numbers(tuned)
    tuned.save_pretrained(adapter)
    saved = seconds_alive()
    model = tuned.get_base_model().eval()  # with the adapter's layers in place
    model.config.use_cache = True
    marks = mark(
        model,
        lesson.tokenizer,
        lesson.chat,
        lesson.quiz,
        questions=job.questions,
        max_new_tokens=job.max_new_tokens,
        max_length=job.max_length,
    )
    return {
        "peak_bytes": peak,
        "tokens_per_second": tokens / watch.seconds,
        "step_seconds": watch.seconds / trainer.state.global_step,
        "saved_seconds": saved,
        "steps": trainer.state.global_step,
        "examples_per_step": trainer.args.per_device_train_batch_size,
        "nll": marks["nll"],
        "rouge_l": marks["rouge_l"],
        "trained_numbers": numbers,
        "adapter_bytes": (adapter / "adapter_model.safetensors").stat().st_size,
        **computing(),
    }


def main(arguments: list[str]) -> int:
    """Entry: reads the job, writes ``result.json`` into its folder ``out``."""
    logging.getLogger("trl").setLevel(logging.ERROR)
    job = Job.load(Path(arguments[0]))
    write_result(Path(job.out), train_and_mark(job))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
