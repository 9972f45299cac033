"""Plans from a configuration alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core import cli
from core.config import GB, RunConfig
from core.device import CONTEXT_BYTES
from core.errors import ConfigError, ModelError
from core.modelcheck import is_shape
from core.plan.shapes import ASSUMED, plan_shape
from core.plan.types import Plan

CHECKOUT = Path(__file__).resolve().parents[2]


def llama(layers: int, hidden: int, inner: int, heads: int, kv: int, vocabulary: int, **more: Any):
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        **more,
    }


SHAPES = {
    "70B": llama(80, 8192, 28672, 64, 8, 128256),
    "7B": llama(32, 4096, 11008, 32, 32, 32000),
    "1.5B": llama(28, 1536, 8960, 12, 2, 151936, model_type="qwen2", tie_word_embeddings=True),
}


def budget(gigabytes: float) -> RunConfig:
    return replace(RunConfig(), budget_bytes=int(gigabytes * GB))


def is_whole(plan: Plan) -> None:
    assert sum(plan.parts.values()) <= plan.predicted_peak_bytes <= plan.budget_bytes
    assert all(x.why.startswith(ASSUMED) and x.error == 0 for x in plan.linears)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark of Linux")
def test_70_billion_weights_are_planned_in_less_memory_than_they_need(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPES["70B"]), "utf-8")
    code = (
        "import sys, json; from pathlib import Path; from core.config import RunConfig;"
        "from core.plan.shapes import plan_shape; from core.process import peak_bytes;"
        "config = RunConfig(budget_bytes=40 * 10**9);"
        "plan = plan_shape(Path(sys.argv[1]), config, device=sys.argv[2]);"
        "import resource; below = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024;"
        "print(json.dumps([peak_bytes(), below, plan.to_json()]))"
    )
    for device in ("cpu", "cuda"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), device],
            cwd=CHECKOUT,
            env={**os.environ, "STUDIO_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peak, below, tree = json.loads(done.stdout.splitlines()[-1])
        assert peak + below < 4 * GB
        plan = Plan.from_json(tree)
        assert plan.feasible
        is_whole(plan)
        assert len(plan.linears) == 80 * 7
        assert sum(x.out_features * x.in_features for x in plan.linears) == 80 * 855_638_016
        assert 2.5 < plan.average_bits < 4.5
        assert plan.predicted_peak_bytes > 0.9 * plan.budget_bytes


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("name", "gigabytes"), [("7B", 12), ("1.5B", 6)])
def test_what_should_fit_fits(name: str, gigabytes: float, device: str) -> None:
    plan = plan_shape(SHAPES[name], budget(gigabytes), device=device)
    assert plan.feasible
    is_whole(plan)
    assert plan.average_bits >= 4
    if device == "cuda":
        assert plan.parts["process"] == CONTEXT_BYTES
        assert plan.parts["allocator"] > 0


def test_a_budget_below_the_minimum_says_the_minimum_and_it_is_one() -> None:
    shape = llama(2, 64, 96, 4, 2, 300)
    refused = plan_shape(shape, budget(0.1))
    assert not refused.feasible
    smallest = refused.minimum_budget_bytes
    assert plan_shape(shape, replace(RunConfig(), budget_bytes=smallest)).feasible


@pytest.mark.slow
def test_layers_that_are_alike_get_bits_that_are_alike() -> None:
    shape = llama(4, 64, 96, 4, 2, 300)
    free = plan_shape(shape, RunConfig(), device="cuda")
    bits = {x.bits for x in free.linears}
    assert len(bits) == 1
    assert len({x.rank for x in free.linears}) <= 2


def test_only_known_and_harmless_configurations_are_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="family 'unheard'"):
        plan_shape({"model_type": "unheard"}, budget(1))
    with pytest.raises(ModelError, match="auto_map"):
        plan_shape({**SHAPES["7B"], "auto_map": {"AutoConfig": "x.Y"}}, budget(1))
    with pytest.raises(ConfigError, match="tpu"):
        plan_shape(SHAPES["7B"], budget(1), device="tpu")


def test_a_folder_with_weights_is_no_shape(tmp_path: Path) -> None:
    assert not is_shape(tmp_path)
    (tmp_path / "config.json").write_text("{}", "utf-8")
    assert is_shape(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert not is_shape(tmp_path)


@pytest.mark.slow
def test_the_command_line_plans_a_folder_with_a_configuration_alone(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    folder, data = tmp_path / "small", tmp_path / "class.csv"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(llama(2, 64, 96, 4, 2, 300)), "utf-8")
    data.write_text("question,answer\nWhat is 2 + 2?,4\n", "utf-8")
    arguments = ["plan", "--model", str(folder), "--data", str(data), "--json"]
    code = cli.main([*arguments, "--budget", "2GB", "--device", "cuda"])
    out, err = capsysbinary.readouterr()
    plan = json.loads(out)
    assert (code, plan["feasible"], len(plan["linears"])) == (0, True, 14)
    assert b"prediction" in err
    assert plan["parts"]["process"] == CONTEXT_BYTES
