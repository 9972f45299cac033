"""Bytes of one training step: measured on two and three blocks, extended to all of them.

Weights, adapters, gradients and moments are counted exactly. Activations depend on the architecture
in ways that are tedious to list and easy to get wrong, so they are measured: the model is built
with two and with three of its blocks, one step is run, and every tensor that lives is counted. The
difference of the two is one block, from which all follow. For large models the tensors have shapes
and no contents (:class:`Hollow`), so that this takes no memory and is as quick for 70 billion
weights as for 70 million.

Letters: T tokens of one forward pass, L blocks.
"""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from core import modelload, workspace
from core.assemble import LanguageModel, assemble, skeleton
from core.device import name_of
from core.errors import ModelError
from core.home import CHECKOUT, cache_folder
from core.layers.lora import AdapterLinear
from core.objectives.language import tokens_at_once
from core.quant.embedding import ROW_BLOCK
from core.quant.schemes import Scheme
from core.quant.weight import QuantizedWeight
from core.whole import write_whole

PROBE_TOKENS = (64, 192)
PROBE_LEARNED = 32  # answer tokens, few: logits are counted apart
PROBE_RANK = 12
VERSION = 13
# On a CPU: what the C library keeps in pieces between small tensors, and what planning maps of the
# libraries; 6 to 25 MB were measured (docs/log.md).
PIECES = 24_000_000


class Hollow(TorchDispatchMode):
    """Floating-point tensors made while it is active have shape, dtype and storage, but no memory.

    Whole numbers and masks stay real: which tokens are learned, or where examples begin, decides
    the shapes of what follows. What is computed from them alone (rotary angles) is real as well.
    """

    def __init__(self) -> None:
        """Prepare; active inside ``with``."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation on shapes, unless all that it is given is real."""
        if func is torch.ops.prim.device.default:  # asked all the time
            return args[0].fake_device
        kwargs = kwargs or {}
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        if tensors and not any(isinstance(x, FakeTensor) for x in tensors):
            return func(*args, **kwargs)
        if func in _BY_INDEX:
            args = (args[0], _as_numbers(args[1]), *args[2:])
        with self._fake:
            result = func(*args, **kwargs)
        if not tensors and isinstance(result, Tensor) and result.dtype in _WHOLE:
            return func(*args, **kwargs)
        return result


_WHOLE = (torch.int64, torch.int32, torch.bool)
_BY_INDEX = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._unsafe_index_put.default,
    torch.ops.aten._index_put_impl_.default,
}


def _as_numbers(indices: Any) -> list[Any]:
    """Indices with each mask replaced by the places where it is true, whose number is a shape."""
    found: list[Any] = []
    for index in indices:
        masked = index is not None and index.dtype == torch.bool
        found += index.nonzero().unbind(1) if masked else [index]
    return found


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made while it is active, and their peak.

    It sees what tensors hold, not scratch memory inside a kernel.
    """

    def __init__(self) -> None:
        """Start at zero; tensors made before do not count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count the storages of its results."""
        if func is torch.ops.prim.device.default:
            return func(*args)
        # What an operation is given and was not made here (weights, codes) does not count, nor
        # does a view of it.
        tree_map_only(Tensor, self._foreign, (args, kwargs))
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, result)
        return result

    def _foreign(self, tensor: Tensor) -> None:
        self._note(tensor.untyped_storage(), 0)

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._note(storage, storage.nbytes())

    def _note(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


# The two moments at which a step may hold most: while the loss is computed (everything kept for the
# backward pass, and a chunk of logits), and in the backward pass of a block.
MOMENTS = ("loss", "backward")


@dataclass(frozen=True)
class StepBytes:
    """Bytes that a step holds beside weights, adapters, gradients and moments.

    ``lines["loss on"] = [f, t, bf, bt]``: with checkpointing on, while the loss is computed, a step
    of T tokens holds f + t * T outside of the blocks and bf + bt * T in each of them. Beside these
    there is the block of memory that all frames share (:mod:`core.workspace`).

    Attributes:
        layers: L.
        lines: as above.
        frames: [f, t]: of the shared block, what the decoder blocks need, f + t * T.
        chunk: most answer tokens whose logits are made at once, bytes of each of them (with a
            block of the head), and bytes of that block, expanded; in the shared block as well.
        fused: whether the blocks keep little (:mod:`core.layers.blocks`).
    """

    layers: int
    lines: dict[str, list[float]]
    frames: list[float]
    chunk: list[float]
    fused: bool = False

    def shared(self, tokens: int) -> float:
        """Bytes of the block that all frames share."""
        f, t = self.frames
        rows, each, head = self.chunk
        return max(f + t * tokens, min(rows, tokens) * each + head)

    def at(self, tokens: int, recomputed: int) -> int:
        """Peak bytes of a step of ``tokens`` (T) whose first ``recomputed`` blocks do not keep.

        Backward, what the later blocks keep is gone when the recomputed ones are reached. These
        share the place for what one of them keeps meanwhile.
        """
        kept = self.layers - recomputed

        def outside(line: str) -> float:
            f, t, _, _ = self.lines[line]
            return f + t * tokens

        def blocks(line: str, number: int) -> float:
            _, _, f, t = self.lines[line]
            return number * (f + t * tokens)

        moments = []
        if kept:
            place = blocks("loss off", 1) if recomputed and self.fused else 0.0
            others = blocks("loss on", recomputed) + place
            moments += [outside("loss off") + blocks("loss off", kept) + others]
            moments += [outside("backward off") + blocks("backward off", kept) + others]
        if recomputed:
            moments += [outside("backward on") + blocks("backward on", recomputed)]
        if not kept:
            moments += [outside("loss on") + blocks("loss on", recomputed)]
        return int(max(moments) + self.shared(tokens))


@dataclass(frozen=True)
class Probe:
    """What is known of a model before it is loaded.

    ``process``: resident bytes of a training process that has run a step and holds nothing any
    more: libraries, tokenizer, and the work space that kernels keep.
    """

    process: int
    step: StepBytes


def probe(path: Path, device: torch.device) -> Probe:
    """Measure (or recall) the model at ``path`` in a child process; seconds, the first time.

    A process of its own, because what libraries once took they keep, and because the present
    process may hold other things.

    Raises:
        ModelError: if the model cannot be probed.
    """
    config = (path / "config.json").read_bytes()
    versions = f"{VERSION} {torch.__version__} {transformers.__version__} {sys.version_info[:3]}"
    threads = f"{torch.get_num_threads()}"
    digest = hashlib.sha256(config + f"{versions} {threads} {name_of(device)}".encode())
    kept = cache_folder() / f"probe-{digest.hexdigest()[:24]}.json"
    try:
        tree = json.loads(kept.read_text("utf-8"))
    except (OSError, ValueError):
        tree = _probe_in_child(path, device)
        write_whole(kept, json.dumps(tree))
    return Probe(int(tree["process"]), StepBytes(**tree["step"]))


def _probe_in_child(path: Path, device: torch.device) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "core.plan.probe", str(path), str(device)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=CHECKOUT,
    )
    try:
        tree: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        sys.stderr.write(done.stderr)
        raise ModelError(
            "The memory that this model needs could not be measured.",
            where=path.name,
            action="Close other programs and try again; if it stays so, choose another model.",
            code="model.probe",
        ) from error
    return tree


def measure_step(
    path: Path,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    tensors: AbstractContextManager[Any] | None = None,
) -> StepBytes:
    """Run steps of a few blocks and count (see the head of this file).

    Args:
        path: a folder with ``config.json``; nothing else of it is read.
        device: where they run; default CPU.
        dtype: of activations; by default that of the device.
        tensors: what makes them, by default :class:`Hollow`; real ones where they are small.
    """
    layers = int(modelload.load_config(path).num_hidden_layers)
    model = skeleton(path, 3)  # outside: it has real buffers, and weights on no device
    with tensors or Hollow():
        try:
            return _counted(probe_model(model, device, dtype), layers)
        finally:
            workspace.forget()  # made of what makes tensors here


def _counted(many: LanguageModel, layers: int) -> StepBytes:
    gc.collect()  # so that nothing of what ran before is freed while counting
    few = len(many.blocks) - 1 or 1
    lines: dict[str, list[float]] = {}
    for switch in ("on", "off"):
        many.set_checkpointing(switch == "on")
        full = {t: peaks(many, t) for t in PROBE_TOKENS}
        held = many.shorten(few)
        short = {t: peaks(many, t) for t in PROBE_TOKENS}
        held()
        blocks = len(many.blocks)
        for k, moment in enumerate(MOMENTS):
            f3, t3 = _line({t: full[t][k] for t in PROBE_TOKENS})
            f2, t2 = _line({t: short[t][k] for t in PROBE_TOKENS})
            bf, bt = (f3 - f2) / max(1, blocks - few), (t3 - t2) / max(1, blocks - few)
            lines[f"{moment} {switch}"] = [f3 - blocks * bf, t3 - blocks * bt, bf, bt]
    frames = list(_line({t: _frame_bytes(many, t) for t in PROBE_TOKENS}))
    return StepBytes(layers, lines, frames, _chunk(many), many.fused)


def _chunk(model: LanguageModel) -> list[float]:
    """See :attr:`StepBytes.chunk`; the product packs a copy of the head's part of its own."""
    v, d = model.head.out_features, model.head.in_features
    block = min(ROW_BLOCK, v)
    each = 4 * block * (2 if model.softcap else 1)
    if model.dtype != torch.float32:
        each += 2 * block * model.dtype.itemsize  # the product, and the gradient, in that type
    packed = 2 if model.device.type == "cpu" else 1
    return [float(tokens_at_once(v)), float(each), float(packed * block * d * 4)]


def _row(model: LanguageModel, tokens: int) -> tuple[Tensor, Tensor]:
    """Ids and positions (T,) of two examples in a row, so that the mask of a packed row counts."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.head.out_features, (tokens,), generator=generator)
    half = tokens // 2
    positions = torch.cat([torch.arange(half), torch.arange(tokens - half)])
    return ids.to(model.device), positions.to(model.device)


def _frame_bytes(model: LanguageModel, tokens: int) -> float:
    """What the decoder blocks, but not the loss, need of the shared block."""
    workspace.forget()
    model.hidden(*_row(model, tokens)).sum().backward()
    _drop_gradients(model)
    return float(workspace.stack_bytes())


def _drop_gradients(model: LanguageModel) -> None:
    for p in model.model.parameters():
        p.grad = None


def _line(points: Mapping[int, float]) -> tuple[float, float]:
    """Intercept and slope through two points."""
    (a, fa), (b, fb) = sorted(points.items())
    slope = (fb - fa) / (b - a)
    return fa - slope * a, slope


def peaks(model: LanguageModel, tokens: int) -> tuple[float, float]:
    """Live bytes at the two moments, without gradients and the memory that frames share."""
    ids, positions = _row(model, tokens)
    labels = torch.full_like(ids, -100)
    labels[: PROBE_LEARNED + 1] = ids[: PROBE_LEARNED + 1]
    _drop_gradients(model)
    workspace.forget()
    model.loss(ids, positions, labels).backward()  # makes the work space, which then stays
    _drop_gradients(model)
    with LiveBytes() as live:
        loss = model.loss(ids, positions, labels)
        forward, live.peak = live.peak, live.now
        loss.backward()
    gradients = sum(p.grad.nbytes for p in model.model.parameters() if p.grad is not None)
    held = workspace.kept_bytes()
    return float(held + forward), float(held + live.peak - gradients)


def probe_model(
    model: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> LanguageModel:
    """A :func:`~core.assemble.skeleton` with weights of zeros; activations in ``dtype``."""

    def store(
        name: str, read: Callable[[], Tensor], bias: Tensor | None, transposed: bool
    ) -> nn.Module:
        o, i = modelload.linear_shape(model.get_submodule(name))
        layer = AdapterLinear(_empty(o, i, device), bias, transposed=transposed)
        layer.set_triplets(
            torch.zeros(o, PROBE_RANK), torch.ones(PROBE_RANK), torch.zeros(PROBE_RANK, i)
        )
        return layer

    zeros = _Zeros(model)
    o, i = (int(n) for n in model.get_input_embeddings().weight.shape)
    return assemble(
        model, zeros, store, table=lambda name: _empty(o, i, device), device=device, dtype=dtype
    )


def _empty(out_features: int, in_features: int, device: torch.device | None) -> QuantizedWeight:
    """A weight of zeros in fp16: like any stored one it is expanded for each use, but in one go."""
    stored = QuantizedWeight(Scheme(16), out_features, in_features)
    zeros = torch.zeros(out_features, in_features, dtype=torch.float16, device=device)
    stored.register_buffer("dense", zeros)
    return stored


class _Zeros:
    """Stands for the weights of a model whose memory, not whose answers, are of interest."""

    def __init__(self, model: nn.Module) -> None:
        self._shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}

    def __getitem__(self, name: str) -> Tensor:
        return torch.zeros(self._shapes[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self._shapes[name]
