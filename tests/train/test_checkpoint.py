import pytest
import torch

from core.train import checkpoint


def three(folder):
    for step in (10, 20, 30):
        checkpoint.save(folder, step, {"w": torch.full((4,), float(step))}, {"step": step})


def test_the_newest_whole_one_is_taken(tmp_path):
    three(tmp_path)
    path, tensors, state = checkpoint.newest(tmp_path)
    assert (path.name, state["step"], float(tensors["w"][0])) == ("step-000030", 30, 30.0)


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete"])
def test_damage_falls_back_to_the_one_before(tmp_path, file, damage):
    three(tmp_path)
    target = tmp_path / "step-000030" / file
    content = bytearray(target.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
    elif damage == "cut":
        target.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        target.write_bytes(b"")
    else:
        target.unlink()
    found = checkpoint.newest(tmp_path)
    assert found is not None
    if found[0].name == "step-000030":  # a flipped bit in the manifest's own facts changes nothing
        assert (file, damage) == ("MANIFEST.json", "flip")
        assert float(found[1]["w"][0]) == 30.0
    else:
        assert found[0].name == "step-000020"


def test_none_is_left_when_all_are_damaged(tmp_path):
    three(tmp_path)
    for path in tmp_path.glob("*/state.safetensors"):
        path.write_bytes(b"")
    assert checkpoint.newest(tmp_path) is None


def test_rotation_keeps_the_best_and_the_newest_two(tmp_path):
    three(tmp_path)
    checkpoint.save(tmp_path, 40, {"w": torch.zeros(1)}, {})
    checkpoint.rotate(tmp_path, {"step-000010"})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-000010",
        "step-000030",
        "step-000040",
    ]
