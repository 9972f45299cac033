"""What all tests share: one thread, no network, a state folder of their own, small models."""

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", PYTHONUTF8="1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import ipaddress
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import home, models

CHECKOUT = Path(__file__).resolve().parent.parent
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ARCHITECTURES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "glm4",
    "gemma3",
    "phi3",
    "smollm3",
    "gpt2",
    "glm",
    "gemma",
    "gemma2",
    "granite",
)

try:  # before any test: torch counts its threads when it is first used
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)

_connect = socket.socket.connect


def _loopback_only(self: socket.socket, address: Any) -> None:
    """Connect within this machine only: no test may reach a network."""
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = str(address[0])
        try:
            inside = ipaddress.ip_address(host).is_loopback
        except ValueError:
            inside = host == "localhost"
        if not inside:
            raise OSError(f"a test tried to reach {host}")
    _connect(self, address)


socket.socket.connect = _loopback_only  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def own_models_folder() -> Path:
    """The models folder of the person who runs the tests (not the tests' own)."""
    return home.home() / "models"


@pytest.fixture(scope="session", autouse=True)
def studio_home(
    own_models_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A state folder for this session."""
    folder = tmp_path_factory.mktemp("studio_home")
    before = os.environ.get("STUDIO_HOME")
    os.environ["STUDIO_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["STUDIO_HOME"]
    else:
        os.environ["STUDIO_HOME"] = before


@pytest.fixture(scope="session")
def shared() -> Path:
    """Sample data and bad files beside the checkout."""
    folder = CHECKOUT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared beside the checkout")
    return folder


@pytest.fixture(scope="session")
def starter(
    own_models_folder: Path, studio_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The converted starter model, also usable as ``--model starter`` in this session.

    The person's own copy is taken if it is whole; otherwise the package's file is converted once
    for all processes of this test run.
    """
    link = studio_home / "models" / models.STARTER
    if link.exists():
        return link
    try:
        models.starter_file()
    except models.ModelError as error:
        pytest.skip(str(error))
    source = own_models_folder / models.STARTER
    if not (source / "MANIFEST.json").is_file():
        source = _converted_once(tmp_path_factory.getbasetemp().parent)
    link.parent.mkdir(exist_ok=True)
    try:
        link.symlink_to(source, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(source, link)
    return link


def _converted_once(folder: Path) -> Path:
    """Convert the starter below ``folder``; of several processes one does it, the others wait."""
    target, lock = folder / "starter", folder / "starter.lock"
    deadline = time.monotonic() + 300
    while not target.is_dir():
        try:
            lock.mkdir()
        except FileExistsError:
            assert time.monotonic() < deadline, "another test process did not convert the starter"
            time.sleep(0.5)
            continue
        try:
            models.convert(models.starter_file(), target, starter=True)
        finally:
            lock.rmdir()
    return target


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Each tried architecture in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function: architecture -> folder of a tiny random model of the real class."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = _tiny_model(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return make


def _tiny_model(architecture: str, folder: Path) -> Path:
    import transformers

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.1,  # well apart from each other, so that greedy choices are clear
    }
    tied = {"tie_word_embeddings": architecture in ("qwen2", "gemma", "gemma2", "gemma3", "gpt2")}
    special: dict[str, dict[str, Any]] = {
        "gemma2": {"final_logit_softcapping": 5.0, "sliding_window": 32},
        "gemma3": {"final_logit_softcapping": 5.0, "sliding_window": 32},
        "granite": {"logits_scaling": 3.0},
        "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    }
    if architecture == "gpt2":
        for name in ("num_key_value_heads", "head_dim", "intermediate_size"):
            del sizes[name]
    kind = "gemma3_text" if architecture == "gemma3" else architecture
    values = {**sizes, **tied, **special.get(architecture, {})}
    config = transformers.AutoConfig.for_model(kind, **values)
    torch.manual_seed(ARCHITECTURES.index(architecture))
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    return folder


def tiny_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer of about 300 tokens with a ChatML template."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    text = ["user system assistant What is the capital of France? The answer is Paris. 你好 学习"]
    backend.train_from_iterator(text * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<|im_start|>",
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )
