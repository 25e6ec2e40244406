"""Checkpoints: whole or found damaged, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from mirrorlib.errors import UserError
from mirrorlib.training.checkpoint import (
    find_checkpoint,
    load_weights,
    newest_whole,
    recorded_step,
    save_checkpoint,
)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path: Path):
    path = save_checkpoint(tmp_path, 1, nn.Linear(2, 2), {}, "", 1)
    with pytest.raises(UserError, match=r"step-000001: weights do not load"):
        load_weights(path, nn.Linear(3, 2))


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "recipe.yaml"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_damage_is_found(tmp_path: Path, name: str, harm: str):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, nn.Linear(2, 2), {"a": torch.ones(3)}, "name: x\n", 2)
    assert newest_whole(tmp_path) == (tmp_path / "step-000002", [])
    file = tmp_path / "step-000002" / name
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[:-1])
    elif harm == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    found, skipped = newest_whole(tmp_path)
    assert found == tmp_path / "step-000001"
    assert len(skipped) == 1 and name in skipped[0] and "step-000002 is damaged" in skipped[0]


@pytest.mark.parametrize("index", [None, "", "[]", "{}", '{"sha256": 3}', "{"])
def test_a_damaged_index_is_found(tmp_path: Path, index: str | None):
    path = save_checkpoint(tmp_path, 1, nn.Linear(2, 2), {}, "", 1)
    (path / "checkpoint.json").unlink()
    if index is not None:
        (path / "checkpoint.json").write_text(index)
    assert newest_whole(tmp_path)[0] is None


def test_a_checkpoint_is_found_by_its_folder_or_its_runs(tmp_path: Path):
    folder = tmp_path / "run" / "checkpoints"
    for step in (1, 2):
        save_checkpoint(folder, step, nn.Linear(2, 2), {}, "", 2)
    assert find_checkpoint(folder / "step-000001") == folder / "step-000001"
    assert find_checkpoint(tmp_path / "run") == folder / "step-000002"
    (folder / "step-000002" / "state.pt").unlink()
    assert find_checkpoint(tmp_path / "run") == folder / "step-000001"
    with pytest.raises(UserError, match=r"step-000002 is damaged \(state.pt is missing\)"):
        find_checkpoint(folder / "step-000002")
    with pytest.raises(UserError, match="no checkpoint, and no run that has one"):
        find_checkpoint(tmp_path)
    best = (folder / "step-000001").rename(tmp_path / "best")
    assert recorded_step(find_checkpoint(best)) == 1


KILLS = {
    "before the weights": "mirrorlib.training.checkpoint.save_model",
    "before the state": "torch.save",
    "before the index": "json.dumps",
    "before the rename": "pathlib.Path.rename",
    "before the old one goes": "mirrorlib.training.checkpoint.step_of",
}


@pytest.mark.parametrize("place", KILLS.values(), ids=KILLS)
def test_a_kill_while_writing_leaves_a_whole_checkpoint(tmp_path: Path, place: str):
    """The very step that is written may be there already, damaged."""
    save_checkpoint(tmp_path, 1, nn.Linear(2, 2), {}, "", 2)
    (save_checkpoint(tmp_path, 2, nn.Linear(2, 2), {}, "", 2) / "state.pt").unlink()
    child = os.fork()
    if not child:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, lambda *args, **options: os._exit(9))
            save_checkpoint(tmp_path, 2, nn.Linear(2, 2), {}, "", 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    found, _ = newest_whole(tmp_path)
    assert found is not None
    assert found.name == ("step-000002" if place.endswith("step_of") else "step-000001")
    save_checkpoint(tmp_path, 2, nn.Linear(2, 2), {}, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_writing_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch):
    save_checkpoint(tmp_path, 1, nn.Linear(2, 2), {}, "", 1)

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match=r"step-000002: cannot be written \(disk full\); make room"):
        save_checkpoint(tmp_path, 2, nn.Linear(2, 2), {}, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert newest_whole(tmp_path)[0] == tmp_path / "step-000001"
