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


# Of adapters of PEFT; what they cannot do is refused with a sentence.
_PEERS = (
    "resume",
    "merged",
    "peft (the adapter as it is)",
    "a budget is a limit, not a plan",
    "direction penalty",
    "balanced decay",
    "not: bits, another optimizer than AdamW",
)

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
        "direction",
        "Direction penalty (anchor) and balanced decay: attention keeps its directions",
        "inspired by an abstract (fx361.cc 2024/0922/24691191); our interpretation",
        ("budget", "mixed bits", "dynamic ranks", "resume", "merged", "peft"),
        ("class data",),
        (("train.direction", "anchor"), ("train.balanced_decay", "on")),
    ),
    Method(
        "trajectory",
        "Direction penalty (trajectory) and balanced decay: no turning back on the way",
        "inspired by an abstract (fx361.cc 2024/0922/24691191); our interpretation",
        ("budget", "mixed bits", "dynamic ranks", "resume", "merged", "peft"),
        ("class data",),
        (("train.direction", "trajectory"), ("train.balanced_decay", "on")),
    ),
    Method(
        "eduadapt",
        "EduAdapt: a cautious AdamW with adaptive clip, late decay of the rate, balanced decay",
        "inspired by arXiv 2412.04718 (abstract); our interpretation",
        ("budget", "mixed bits", "dynamic ranks", "resume", "merged", "peft"),
        ("class data",),
        (("train.optimizer", "eduadapt"),),
    ),
    Method(
        "svd",
        "SVD adaptation: only singular values and a scale for each row train",
        "after an abstract (c-s-a.org.cn 9731) and OSoRA, arXiv 2505.14350; our interpretation",
        ("budget", "mixed bits", "resume", "merged", "peft"),
        ("class data",),
        (
            ("adapter.parametrisation", "svd"),
            ("adapter.uniform", True),
            ("adapter.dynamic", False),
            ("adapter.start", "zero"),
        ),
    ),
    Method(
        "peft-lora",
        "LoRA of the library PEFT: two factors in every layer, weights dense",
        "Hu et al. 2021, arXiv 2106.09685; PEFT",
        _PEERS,
        ("class data", "memory for dense weights; estimated, not planned"),
        (("peer.variant", "lora"), ("peer.stored", "dense")),
    ),
    Method(
        "dora",
        "DoRA: a low-rank change of direction, and a magnitude for every output",
        "Liu et al. 2024, arXiv 2402.09353; PEFT",
        _PEERS,
        ("class data", "memory for dense weights; estimated, not planned"),
        (("peer.variant", "dora"), ("peer.stored", "dense")),
    ),
    Method(
        "pissa",
        "PiSSA: the strongest directions of the weights themselves train",
        "Meng et al. 2024, arXiv 2404.02948; PEFT",
        _PEERS,
        ("class data", "memory for dense weights; estimated, not planned"),
        (("peer.variant", "pissa"), ("peer.stored", "dense")),
    ),
    Method(
        "adalora",
        "AdaLoRA: ranks move to the layers where they count",
        "Zhang et al. 2023, arXiv 2303.10512; PEFT",
        (*_PEERS, "dynamic ranks"),
        ("class data", "memory for dense weights; estimated, not planned"),
        (("peer.variant", "adalora"), ("peer.stored", "dense")),
    ),
    Method(
        "peft-qlora",
        "QLoRA of PEFT and bitsandbytes: weights in NF4, their scales quantized too",
        "Dettmers et al. 2023, arXiv 2305.14314; PEFT and bitsandbytes",
        _PEERS,
        ("class data", "bitsandbytes", "memory is estimated, not planned"),
        (("peer.variant", "lora"), ("peer.stored", "nf4")),
    ),
    Method(
        "loftq",
        "LoftQ: as peft-qlora, the adapter begins as what rounding to NF4 lost",
        "Li et al. 2023, arXiv 2310.08659; PEFT and bitsandbytes, the start computed here",
        _PEERS,
        ("class data", "bitsandbytes", "memory is estimated, not planned"),
        (("peer.variant", "loftq"), ("peer.stored", "nf4")),
    ),
    Method(
        "full",
        "Full fine-tuning: every weight of a small model trains",
        "the usual fine-tuning with AdamW, Loshchilov and Hutter 2019, arXiv 1711.05101",
        (
            "resume",
            "merged (a whole model)",
            "a budget is a limit, not a plan",
            "direction penalty",
            "balanced decay",
            "not: peft, bits, dynamic ranks, another optimizer than AdamW",
        ),
        ("class data", "16 bytes for every weight: a small model"),
        (("peer.variant", "full"), ("peer.stored", "dense")),
    ),
    Method(
        "pairs",
        "Same question? Improved LoRA with a head that compares two questions",
        "after the improved LoRA for question pairs (arXiv 2412.18729, abstract), rsLoRA"
        " 2312.03732, LoRA+ 2402.12354, LoRA-GA 2407.05000, DoRA 2402.09353, R-Drop 2106.14448;"
        " our interpretation",
        ("decoders", "encoders", "dynamic ranks", "resume", "merged", "duplicates"),
        ("pairs of questions with a label", "no budget: memory is measured, not planned"),
        (("adapter.uniform", True),),
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
        ConfigError: for an unknown method, or one that cannot do what the settings ask.
    """
    for dotted, value in method(config.method).settings:
        group, _, name = dotted.partition(".")
        config = replace(config, **{group: replace(getattr(config, group), **{name: value})})
    if config.adapter.parametrisation == "svd":
        return _of_singular_values(config)
    if config.peer.variant != "none" and not _fixes(config.method, "peer.variant"):
        raise ConfigError(
            f"Method {config.method} trains no adapter of PEFT.",
            where="peer.variant",
            action="Choose the method of this name (peft-lora, dora, pissa, adalora, peft-qlora,"
            " loftq or full).",
            code="config.variant",
        )
    return config


def _fixes(method_id: str, dotted: str) -> bool:
    return any(name == dotted for name, _ in method(method_id).settings)


def planned(config: RunConfig) -> RunConfig:
    """The configuration, of a method that has a plan before its training.

    Raises:
        ConfigError: for one that has none.
    """
    if config.method == "pairs":
        raise ConfigError(
            "Training on pairs of questions is not planned; it trains at once.",
            where="method",
            action="Start the training; its memory is measured in the first step.",
            code="pairs.no_plan",
        )
    if config.peer.variant != "none":
        raise ConfigError(
            f"Method {config.method} has no plan: its weights are stored in one way.",
            where="method",
            action="Start the training: its memory is estimated before and measured in every step.",
            code="peers.no_plan",
        )
    return config


def _of_singular_values(config: RunConfig) -> RunConfig:
    """The configuration where singular values train, for which some settings make no sense.

    Raises:
        ConfigError: for those.
    """
    train = config.train
    if config.method != "svd":
        raise ConfigError(
            f"Method {config.method} trains low-rank triplets, not singular values.",
            where="adapter.parametrisation",
            action="Choose method svd.",
            code="config.parametrisation",
        )
    if train.optimizer == "prodigy" and train.diagonal_lr != train.lr:
        raise ConfigError(
            "Prodigy finds one rate for all that trains, and method svd has two.",
            where="train.diagonal_lr",
            action="Set both rates to the same value, or choose another optimizer.",
            code="config.svd_prodigy",
        )
    return config
