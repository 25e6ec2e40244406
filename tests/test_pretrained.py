"""Weights from strangers' files: what is read, what is refused, and in how many words."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mirrorlib.errors import UserError
from mirrorlib.pretrained import load_whole, read_weights


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of the file ran')",)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_files_of_either_kind_hold_the_same(tmp_path: Path):
    state = network().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "c.pt")
    torch.save({"model": state, "optimizer": {}}, tmp_path / "e.pth")
    torch.save({"module": state, "step": 3}, tmp_path / "f.pth")
    torch.save({f"module.{name}": state[name] for name in state}, tmp_path / "d.pth")
    for file in tmp_path.iterdir():
        read = read_weights(file)
        assert set(read) == set(state), file
        assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "holds no state_dict, but a dict"),
        ([1, 2], "holds no state_dict, but a list"),
        ({"a": torch.ones(1), "b": 3}, "'b' is no tensor"),
        ({"a": torch.ones(1), 3: torch.ones(1)}, "3 is no tensor"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: object, problem: str):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=problem):
        read_weights(tmp_path / "weights.pt")


@pytest.mark.filterwarnings("ignore")
def test_code_in_a_file_never_runs(tmp_path: Path):
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"a": Harmful()}))
    torch.save({"a": Harmful()}, tmp_path / "zip.pt")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.jit.script(network()).save(tmp_path / "script.pt")
    for file in tmp_path.iterdir():
        with pytest.raises(UserError, match="no weights that can be read safely") as caught:
            read_weights(file)
        assert len(caught.value.lines) == 1 and len(caught.value.lines[0]) < 500


def test_what_would_run_and_what_is_not_there_is_named(tmp_path: Path):
    torch.save({"a": Harmful()}, tmp_path / "zip.pt")
    with pytest.raises(UserError, match=r"zip\.pt: .*asks for [\w.]*exec, which would run code"):
        read_weights(tmp_path / "zip.pt")
    for name in ("absent.pt", "absent.safetensors"):
        with pytest.raises(UserError, match=rf"{name}: no such file"):
            read_weights(tmp_path / name)


def test_every_misfit_is_named_in_one_line():
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    state["0.weihgt"] = state.pop("0.weight")
    state["1.weight"] = torch.ones(2, 5)
    with pytest.raises(UserError) as caught:
        load_whole(module, state, "file.pt", "a small network")
    assert caught.value.lines == [
        "file.pt does not hold the weights of a small network: missing 0.weight; "
        "surplus 0.weihgt; of another shape 1.weight (2, 5) for (2, 4); rename or remove what "
        "differs, or build the sizes that it was trained with"
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    many = {f"layer.{number}": torch.ones(1) for number in range(300)}
    with pytest.raises(UserError, match=r"surplus layer.0, layer.1, layer.2, ... \(300 in all\)"):
        load_whole(module, {**before, **many}, "file.pt", "a small network")


def test_weights_are_cast_to_the_modules_precision():
    module = network()
    halves = {name: tensor.half() for name, tensor in network().state_dict().items()}
    load_whole(module, halves, "file.pt", "a small network")
    assert module[0].weight.dtype == torch.float32
    assert torch.equal(module[0].weight, halves["0.weight"].float())
