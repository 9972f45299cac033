"""The list of base models, and that nothing unsafe or damaged gets as far as a library."""

import csv
import http.server
import json
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import modelcheck, models
from core.errors import ModelError
from core.manifest import MANIFEST, check_manifest, whole_folder, write_manifest

Tiny = Callable[[str], Path]
MODEL_GROUP = [f"M{n:02d}" for n in range(1, 21)]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of a tiny model that a test may damage."""
    return Path(shutil.copytree(tiny("llama"), tmp_path / "model"))


@pytest.fixture
def bad_files(shared: Path) -> Path:
    return shared / "badfiles" / "files"


@pytest.fixture
def catalogue(shared: Path) -> dict[str, dict[str, str]]:
    with (shared / "badfiles" / "catalogue.csv").open(encoding="utf-8", newline="") as handle:
        return {row["id"]: row for row in csv.DictReader(handle)}


@pytest.fixture
def refused(catalogue: dict[str, dict[str, str]], tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Check that a call is refused with the words the catalogue asks for, without side effects."""

    def check(case: str, call: Callable[..., Any], *arguments: Any) -> str:
        with pytest.raises(ModelError) as caught:
            call(*arguments)
        said = str(caught.value)
        for part in catalogue[case]["must_mention"].split("|"):
            assert part.lower() in said.lower()
        assert str(tmp_path) not in said
        return said

    yield check
    assert not list(tmp_path.rglob("PWNED_CANARY")) and not Path("PWNED_CANARY").exists()


def _put(folder: Path, source: Path, name: str) -> None:
    shutil.copyfile(source, folder / name)


# --- the catalogue of bad inputs ----------------------------------------------------------------


def test_m01_an_adapter_as_pickle_is_not_opened(
    refused: Callable[..., str], bad_files: Path, tmp_path: Path
) -> None:
    _put(tmp_path, bad_files / "M01.bin", "adapter_model.bin")
    refused("M01", modelcheck.check_adapter_folder, tmp_path, [])


def test_m02_pickles_of_a_run_are_not_imported(
    refused: Callable[..., str], bad_files: Path, tmp_path: Path
) -> None:
    _put(tmp_path, bad_files / "M02_rng_state.pth", "rng_state.pth")
    refused("M02", modelcheck.refuse_pickles, tmp_path)


@pytest.mark.parametrize("case", ["M03", "M04"])
def test_m03_m04_a_damaged_weight_file_is_refused(
    refused: Callable[..., str], bad_files: Path, folder: Path, case: str
) -> None:
    _put(folder, bad_files / f"{case}.safetensors", "model.safetensors")
    refused(case, models.resolve, str(folder))


def test_m05_a_flipped_bit_is_found_by_the_manifest(
    refused: Callable[..., str], folder: Path
) -> None:
    write_manifest(folder)
    assert models.ensure_local(models.resolve(str(folder))) == folder.resolve()
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    refused("M05", lambda: models.ensure_local(models.resolve(str(folder))))


def test_m06_weights_that_are_no_numbers_are_refused(
    refused: Callable[..., str], bad_files: Path
) -> None:
    refused("M06", modelcheck.check_finite, [bad_files / "M06.safetensors"])


@pytest.mark.parametrize("case", ["M07", "M08"])
def test_m07_m08_a_foreign_adapter_configuration_is_refused(
    refused: Callable[..., str], bad_files: Path, case: str
) -> None:
    path = bad_files / f"{case}_adapter_config.json"
    refused(case, modelcheck.check_adapter_config, path, ["starter"])


def test_m09_keys_that_load_code_are_refused(
    refused: Callable[..., str], bad_files: Path, folder: Path
) -> None:
    _put(folder, bad_files / "M09_config.json", "config.json")
    refused("M09", models.resolve, str(folder))


@pytest.mark.parametrize("case", ["M10", "M11"])
def test_m10_m11_a_hostile_chat_template_is_refused(
    refused: Callable[..., str], bad_files: Path, folder: Path, case: str
) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    _put(folder, bad_files / f"{case}_tokenizer_config.json", "tokenizer_config.json")
    refused(case, models.resolve, str(folder))


@pytest.mark.parametrize("case", ["M12", "M13", "M14"])
def test_m12_m13_m14_a_bad_gguf_is_refused(
    refused: Callable[..., str], bad_files: Path, case: str
) -> None:
    refused(case, models.resolve, str(bad_files / f"{case}.gguf"))


@pytest.mark.parametrize("case", ["M15", "M16", "M17"])
def test_m15_m16_m17_a_name_that_is_none_is_refused(
    refused: Callable[..., str], catalogue: dict[str, dict[str, str]], case: str
) -> None:
    refused(case, models.resolve, json.loads(catalogue[case]["upload_as"]))


def test_m18_an_adapter_of_another_base_says_which(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "someone/other-model"}
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(config), "utf-8")
    said = refused("M18", modelcheck.check_adapter_config, path, ["starter"])
    assert "someone/other-model" in said


def test_m19_a_half_downloaded_model_says_what_is_missing(
    refused: Callable[..., str], folder: Path
) -> None:
    write_manifest(folder)
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused("M19", models.resolve, str(folder))


def test_m19_a_missing_shard_is_named(refused: Callable[..., str], folder: Path) -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    assert "two.safetensors" in refused("M19", models.resolve, str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_m20_a_model_that_needs_its_own_code_is_refused(
    refused: Callable[..., str], folder: Path, name: str
) -> None:
    tree = json.loads((folder / name).read_text("utf-8"))
    (folder / name).write_text(json.dumps({**tree, "auto_map": {"AutoModel": "x.Y"}}), "utf-8")
    assert "auto_map" in refused("M20", models.resolve, str(folder))


# --- folders ------------------------------------------------------------------------------------


def test_a_local_folder_is_described(folder: Path) -> None:
    info = models.resolve(str(folder))
    assert (info.source, info.architecture, info.ready) == ("local", "LlamaForCausalLM", True)
    entries = modelcheck.safetensors_header(folder / "model.safetensors")
    assert info.parameters == sum(int(np.prod(e.shape)) for e in entries.values())
    assert {"id", "source", "path", "parameters", "architecture", "licence"} <= set(info.to_json())


def test_the_licence_comes_from_the_front_matter(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# x\n", "utf-8")
    assert models.resolve(str(folder)).licence == "mit"


def test_weights_only_as_pickle_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        models.resolve(str(folder))


def test_a_pickle_beside_safetensors_is_ignored(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"cos\nmkdir\n")
    assert models.resolve(str(folder)).ready


def test_an_unknown_family_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "whisper"}', "utf-8")
    with pytest.raises(ModelError, match="whisper"):
        models.resolve(str(folder))


def test_an_already_quantized_model_is_refused(folder: Path) -> None:
    tree = json.loads((folder / "config.json").read_text("utf-8"))
    tree["quantization_config"] = {"quant_method": "gptq"}
    (folder / "config.json").write_text(json.dumps(tree), "utf-8")
    with pytest.raises(ModelError, match="already quantized"):
        models.resolve(str(folder))


@pytest.mark.parametrize("kind", ["float32", "float16", "uint16"])
def test_one_infinite_number_is_found(tmp_path: Path, kind: str) -> None:
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
    numbers = np.zeros(3_000_000, dtype=kind)
    path = tmp_path / "w.safetensors"
    _save(path, names[kind], numbers)
    assert modelcheck.first_not_finite(path) == ""
    numbers[-2] = 0x7F80 if kind == "uint16" else np.inf
    _save(path, names[kind], numbers)
    assert modelcheck.first_not_finite(path) == "w"


def _save(path: Path, dtype: str, numbers: "np.ndarray[Any, Any]") -> None:
    places = {"dtype": dtype, "shape": [numbers.size], "data_offsets": [0, numbers.nbytes]}
    header = json.dumps({"w": places}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + numbers.tobytes())


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    places = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": places, "b": places}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(ModelError, match="overlap"):
        modelcheck.safetensors_header(path)


def test_an_ordinary_unknown_template_passes_the_sandbox(folder: Path) -> None:
    template = "{% for m in messages %}{% generation %}{{ m.content | trim }}{% endgeneration %}"
    (folder / "chat_template.jinja").write_text(template + "{% endfor %}", "utf-8")
    assert models.resolve(str(folder)).ready


def test_a_template_that_writes_without_end_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ 'x' * 10**10 }}", "utf-8")
    with pytest.raises(ModelError, match="template"):
        models.resolve(str(folder))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of processor time")
def test_a_template_that_computes_without_end_is_refused(folder: Path) -> None:
    loop = "{% for a in range(9**5) %}{% for b in range(9**5) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loop, "utf-8")
    with pytest.raises(ModelError, match="does not end"):
        models.resolve(str(folder))


# --- list, settings, hub ------------------------------------------------------------------------


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_starter_is_listed_before_it_is_converted(empty_home: Path) -> None:
    info = models.list_models()[0]
    assert (info.id, info.ready, info.parameters) == ("starter", False, 134_515_008)
    assert info.licence == "apache-2.0" and "4 bits already" in info.note


def test_a_converted_starter_is_ready(starter: Path) -> None:
    info = models.resolve("starter")
    assert info.ready and info.parameters == 134_515_008
    assert models.ensure_local(info) == Path(info.path)


def test_a_converted_starter_elsewhere_is_used_where_it_is(
    starter: Path, empty_home: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "copy"
    shutil.copytree(starter, elsewhere)
    assert models.ensure_local(models.resolve(str(elsewhere))) == elsewhere
    assert not (empty_home / "models" / models.STARTER).exists()


def test_an_added_folder_is_listed_and_a_vanished_one_says_so(
    empty_home: Path, folder: Path
) -> None:
    added = models.add_folder(folder)
    models.add_folder(folder)
    assert [i for i in models.list_models() if i.path == added.path] == [added]
    shutil.rmtree(folder)
    (gone,) = [i for i in models.list_models() if i.path == added.path]
    assert gone.problem and not gone.ready
    with pytest.raises(ModelError):
        models.ensure_local(gone)


def test_downloads_are_off_until_a_person_switches_them_on(empty_home: Path) -> None:
    with pytest.raises(ModelError, match="switched off"):
        models.resolve("owner/name")
    models.set_hub(enabled=True, endpoint="http://127.0.0.1:1/")
    info = models.resolve("owner/name")
    assert (info.source, info.ready) == ("hub", False)
    with pytest.raises(ModelError, match="could not be downloaded"):
        models.ensure_local(info)
    assert list((empty_home / "models").iterdir()) == []


class _Hub(http.server.BaseHTTPRequestHandler):
    """A mirror that serves one folder the way the hub does."""

    folder: Path

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        names = sorted(p.name for p in self.folder.iterdir())
        if path == "/api/models":
            content = b"[]"
        elif path.startswith("/api/models/owner/name"):
            files = [{"rfilename": name} for name in names]
            document = {"id": "owner/name", "sha": "a" * 40, "siblings": files, "private": False}
            if "/tree/" in path:
                sizes = {name: (self.folder / name).stat().st_size for name in names}
                document = [  # type: ignore[assignment]
                    {"type": "file", "path": n, "size": s, "oid": "b" * 40}
                    for n, s in sizes.items()
                ]
            content = json.dumps(document).encode()
        elif path.rsplit("/", 1)[-1] in names:
            content = (self.folder / path.rsplit("/", 1)[-1]).read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", '"' + "b" * 40 + '"')
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def mirror(folder: Path) -> Iterator[str]:
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that nobody asks for")
    handler = type("Handler", (_Hub,), {"folder": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_model_is_downloaded_through_a_mirror(empty_home: Path, mirror: str) -> None:
    models.set_hub(enabled=True, endpoint=mirror)
    said: list[str] = []
    local = models.ensure_local(models.resolve("owner/name"), lambda share, text: said.append(text))
    assert local == empty_home / "models" / "owner--name"
    assert not (local / "pytorch_model.bin").exists()
    assert check_manifest(local, contents=True)["id"] == "owner/name"
    assert models.resolve("owner/name").source == "hub" and said[-1] == "ready"
    models.set_hub(enabled=False, endpoint=mirror)
    assert models.resolve("owner/name").ready


def test_the_hub_can_be_tested(mirror: str) -> None:
    assert models.test_hub(mirror) == f"{mirror} answers."
    assert "does not answer" in models.test_hub("http://127.0.0.1:1")
    assert "no address" in models.test_hub("http://169.254.169.254/latest")
    assert "no address" in models.test_hub("file:///etc/passwd")


# --- conversion and whole folders ---------------------------------------------------------------


@pytest.mark.slow
def test_a_gguf_of_the_starters_kind_is_converted(empty_home: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.gguf"
    shutil.copyfile(models.starter_file(), source)
    info = models.resolve(str(source))
    shares: list[float] = []
    local = models.ensure_local(info, lambda share, text: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert check_manifest(local, contents=True)["source_file"] == "mine.gguf"
    assert models.resolve(str(source)).ready


def test_a_failed_conversion_leaves_nothing(empty_home: Path, tmp_path: Path) -> None:
    content = bytearray(models.starter_file().read_bytes()[: 3 * 2**20])
    source = tmp_path / "cut.gguf"
    source.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        models.convert(source, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with whole_folder(target) as part:
        (part / "a").write_text("1", "utf-8")
    with pytest.raises(RuntimeError), whole_folder(target) as part:
        (part / "a").write_text("2", "utf-8")
        raise RuntimeError
    assert (target / "a").read_text("utf-8") == "1"
    with whole_folder(target) as part:
        (part / "a").write_text("3", "utf-8")
    assert (target / "a").read_text("utf-8") == "3"
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_a_damaged_manifest_is_one_sentence(folder: Path) -> None:
    (folder / MANIFEST).write_text("{", "utf-8")
    with pytest.raises(ModelError, match="damaged"):
        models.resolve(str(folder))


def test_the_list_needs_no_torch() -> None:
    code = "import sys, core.models as m; m.list_models(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
