"""The method families as named compositions of the engine's parts. No torch in here.

A method is a set of settings over one engine, not a copy of the loop.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from core.config import RunConfig
from core.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """One family.

    ``settings`` are the values it fixes, by dotted field of the configuration; ``supports`` and
    ``needs`` are words for people and programs.
    """

    id: str
    title: str
    source: str
    supports: tuple[str, ...]
    needs: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``methods --json``."""
        tree = asdict(self)
        tree["settings"] = dict(self.settings)
        return tree


METHODS: tuple[Method, ...] = (
    Method(
        "adaq",
        "Edu-ADAQ-LoRA: bits and ranks layer by layer, under a hard budget",
        "after Edu-ADAQ-LoRA (abstract, file 202601040000002 of rjgczz.com); our interpretation",
        ("budget", "mixed bits", "dynamic ranks", "resume", "merged", "peft"),
        ("class data",),
    ),
    Method(
        "lora",
        "LoRA: the same rank everywhere, weights at 16 bits",
        "Hu et al. 2021, arXiv 2106.09685; on our loop",
        ("resume", "merged", "peft"),
        ("class data", "memory for 16-bit weights"),
        (
            ("quant.bits", 16),
            ("adapter.uniform", True),
            ("adapter.dynamic", False),
            ("adapter.start", "zero"),
        ),
    ),
    Method(
        "qlora",
        "QLoRA: the same rank everywhere, weights in NF4",
        "Dettmers et al. 2023, arXiv 2305.14314; on our loop, single quantization",
        ("budget", "resume", "merged", "peft"),
        ("class data",),
        (
            ("quant.scheme", "nf4"),
            ("quant.bits", 4),
            ("adapter.uniform", True),
            ("adapter.dynamic", False),
            ("adapter.start", "zero"),
        ),
    ),
    Method(
        "distill",
        "Distillation with feature alignment: a smaller student learns from the model",
        "after arXiv 2412.19449 (abstract), MiniLMv2 and GKD; our interpretation",
        ("resume", "merged", "peft of a quantized student", "mixed bits of a quantized student"),
        ("class data", "memory for teacher and student", "a student with the teacher's tokenizer"),
    ),
)


def method(method_id: str) -> Method:
    """Find a method.

    Raises:
        ConfigError: names those there are.
    """
    for known in METHODS:
        if known.id == method_id:
            return known
    raise ConfigError(
        f"There is no method {method_id!r}.",
        where="method",
        action=f"Choose one of: {', '.join(m.id for m in METHODS)}.",
        code="config.method",
    )


def composed(config: RunConfig) -> RunConfig:
    """The configuration with what its method fixes filled in.

    Raises:
        ConfigError: for an unknown method.
    """
    for dotted, value in method(config.method).settings:
        group, _, name = dotted.partition(".")
        config = replace(config, **{group: replace(getattr(config, group), **{name: value})})
    return config
