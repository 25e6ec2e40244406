"""An export: whole, described, and loaded where neither the run nor its simulator is."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from small_run import RECIPES

import mirrorlib
from mirrorlib import export as exporting
from mirrorlib.assembly import build_joint
from mirrorlib.cli import main
from mirrorlib.errors import UserError
from mirrorlib.export import export
from mirrorlib.interfaces import DataProperties
from mirrorlib.provenance import Code
from mirrorlib.recipe import Recipe, dump_recipe, load_recipe
from mirrorlib.registry import build_section
from mirrorlib.reporting.report import Report
from mirrorlib.training.checkpoint import save_checkpoint
from mirrorlib.training.joint import Joint

SMALL = [
    "name=small",
    "seed=3",
    "source.tasks={turn_tap: null}",
    "data.step_cameras=[front, wrist]",
    "observer={name: r3d, width: 8, embed_dim: 16}",
    "executor={name: arp, width: 32, depth: 1, heads: 2}",
    "projector.dim=16",
    "batch.instructions=2",
]
FILES = {"model.safetensors", "recipe.yaml", "README.md", "export.json"}
FRAMES = torch.arange(2 * 4 * 3 * 64 * 64).reshape(2, 4, 3, 64, 64).mul(37).remainder(256).byte()


def make_recipe(*overrides: str) -> Recipe:
    return load_recipe(RECIPES / "infonce.yaml", [*SMALL, *overrides])


def properties_of(recipe: Recipe) -> DataProperties:
    source = build_section("source", recipe.source)
    return replace(source.properties, cameras=("front", "wrist"))


def make_run(folder: Path, recipe: Recipe, steps: tuple[int, ...] = (10,)) -> Joint:
    """A run folder whose checkpoints hold this model; of the last one there is a report."""
    joint = build_joint(recipe, properties_of(recipe)).eval()
    text, code = dump_recipe(recipe), Code("0123abc", {"mirrorlib": "9.9"})
    for step in steps:
        save_checkpoint(folder / "checkpoints", step, joint, {}, text, 9, code)
    (folder / "recipe.yaml").write_text(text)
    report = Report("small", folder, facts={"MLflow run": "abc"})
    report.add_share("eval/success_rate", 7, 8)
    report.write()
    return joint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Joint]:
    folder = tmp_path_factory.mktemp("run") / "small"
    return folder, make_run(folder, make_recipe(), (5, 10))


@pytest.fixture(scope="module")
def exported(run: tuple[Path, Joint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run[0], tmp_path_factory.mktemp("out") / "deep" / "small-model")


def assert_same(one: Joint, other: Joint) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    with torch.no_grad():
        for first, second in (
            (one.observer.encode_video(FRAMES), other.observer.encode_video(FRAMES)),
            (one.observer.encode_text(["open it"]), other.observer.encode_text(["open it"])),
        ):
            assert torch.equal(first, second)


def test_a_model_comes_back_as_it_was(run: tuple[Path, Joint], exported: Path):
    folder, joint = run
    assert {path.name for path in exported.iterdir()} == {*FILES, "report.json"}
    assert load_recipe(exported / "recipe.yaml").resolved() == make_recipe().resolved()
    loaded = mirrorlib.load(exported)
    assert not any(module.training for module in loaded.modules())
    assert_same(loaded, joint)
    assert loaded.weights == joint.weights and loaded.level == joint.level
    for path in (folder, folder / "checkpoints" / "step-000005"):
        assert_same(mirrorlib.load(str(path)), joint)


def test_the_card_says_what_it_is_and_how_it_was_measured(exported: Path):
    card = (exported / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "mirrorlib"
    assert "license" in front
    assert {"robotics", "objective:infonce"} <= set(front["tags"])
    digest = hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()
    for said in (
        digest, make_recipe().sha, "r3d of mirrorlib-torchvision", "infonce", "87.5 %",
        "52.9 % to 97.8 % (7/8)", "10 of 340 steps", "seed 3", "text alone",
        "trained by mirrorlib 9.9, commit 0123abc", "On test scenes",
    ):  # fmt: skip
        assert said in card
    assert "None" not in card and "MLflow run" not in card


def test_the_cards_own_lines_load_it(exported: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(exported.parent)
    (code,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) == 3
    names = {"frames": FRAMES}
    exec(code, names)
    assert names["seen"].shape == (2, 16)


ELSEWHERE = """
import sys
from mirrorlib import plugins
everything = plugins.distributions
plugins.distributions = lambda: [
    one for one in everything() if one.metadata["Name"] != "mirrorlib-tabletop"
]
import mirrorlib
assert "torch" not in sys.modules
model = mirrorlib.load(sys.argv[1])
assert "mujoco" not in sys.modules
assert not any(row.distribution == "mirrorlib-tabletop" for row in plugins.installed().rows)
print(sum(parameter.double().abs().sum().item() for parameter in model.parameters()))
"""


def test_it_loads_where_the_simulator_is_not_installed(run: tuple[Path, Joint], exported: Path):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, exported], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    total = sum(parameter.double().abs().sum().item() for parameter in run[1].parameters())
    assert float(done.stdout) == pytest.approx(total, rel=1e-12)


def test_only_the_checkpoint_that_was_evaluated_has_the_results(
    run: tuple[Path, Joint], tmp_path: Path
):
    early = export(run[0] / "checkpoints" / "step-000005", tmp_path / "early")
    assert {path.name for path in early.iterdir()} == FILES
    card = (early / "README.md").read_text()
    assert "not evaluated" in card and "87.5" not in card and "5 of 340 steps" in card
    last = export(run[0] / "checkpoints" / "step-000010", tmp_path / "last")
    assert "87.5" in (last / "README.md").read_text()


def test_a_baseline_has_no_projector_on_its_card(tmp_path: Path):
    joint = make_run(tmp_path / "none", make_recipe("objective={name: none}"))
    out = export(tmp_path / "none", tmp_path / "out")
    card = (out / "README.md").read_text()
    assert "without alignment" in card and "| projector" not in card
    assert_same(mirrorlib.load(out), joint)


def test_nothing_is_overwritten_and_nothing_is_left_half(
    run: tuple[Path, Joint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine.txt").write_text("x")
    for taken in (kept, kept / "mine.txt"):
        assert main(["export", str(run[0]), str(taken)]) == 2
        assert re.fullmatch(r"mirrorlib: .*: is not empty; .*\n", capsys.readouterr().err)
    assert [path.name for path in kept.iterdir()] == ["mine.txt"]
    assert main(["export", str(tmp_path), str(tmp_path / "new")]) == 2
    assert "no checkpoint" in capsys.readouterr().err

    def broken(*arguments: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "model_card", broken)
    assert main(["export", str(run[0]), str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    monkeypatch.undo()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["export", str(run[0]), str(empty)]) == 0
    assert str(empty) in capsys.readouterr().out


def damaged(exported: Path, folder: Path, name: str, content: bytes | None) -> Path:
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe"])
def test_what_is_damaged_or_missing_is_one_line(
    exported: Path, tmp_path: Path, name: str, content: bytes | None
):
    folder = damaged(exported, tmp_path, name, content)
    with pytest.raises(UserError) as raised:
        mirrorlib.load(folder)
    assert len(raised.value.lines) == 1
    assert name in raised.value.lines[0] and "export" in raised.value.lines[0]


def test_one_changed_bit_of_the_weights_is_noticed(exported: Path, tmp_path: Path):
    weights = bytearray((exported / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    folder = damaged(exported, tmp_path, "model.safetensors", bytes(weights))
    with pytest.raises(UserError, match=r"model\.safetensors is not what was exported"):
        mirrorlib.load(folder)


@pytest.mark.parametrize(
    "properties", [None, {}, {"cameras": 3, "workspace": [], "proprioception_dim": 1}]
)
def test_an_index_without_the_data_s_properties_is_one_line(
    exported: Path, tmp_path: Path, properties: object
):
    index = json.loads((exported / "export.json").read_text()) | {"properties": properties}
    folder = damaged(exported, tmp_path, "export.json", json.dumps(index).encode())
    with pytest.raises(UserError, match=r"export\.json is damaged"):
        mirrorlib.load(folder)


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        mirrorlib.load(tmp_path / "nowhere")
