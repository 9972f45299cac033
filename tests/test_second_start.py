"""A start where the environment stands already: what it loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.second_start import started_studio
from core.setup.commands import Settings
from core.setup.environment import VENV
from core.setup.stages import plan_stages
from core.setup.stamp import is_whole, read_stamp


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder that looks prepared, beside an environment that launch.py made."""
    starter = tmp_path / "models" / "starter"
    starter.mkdir(parents=True)
    (starter / "MANIFEST.json").write_text("{}", "utf-8")
    monkeypatch.setenv("STUDIO_HOME", str(tmp_path))
    stages = plan_stages(VENV, Settings(), read_stamp(VENV), with_tests=False)
    if not is_whole(VENV) or not all(stage.done for stage in stages):
        pytest.skip("needs the environment that launch.py makes (python launch.py test)")
    return tmp_path


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
@pytest.mark.usefixtures("state")
def test_the_web_process_has_no_torch_in_its_memory() -> None:
    with started_studio() as process:
        maps = Path(f"/proc/{process}/maps").read_text("utf-8")
    assert ".venv" in maps
    assert "libtorch" not in maps
