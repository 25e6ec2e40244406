"""The probe on models whose agreement is known: what each control must expose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Site
from probe_components import PLUGIN, ExecutorConfig, Eyes, Hands, ObserverConfig
from safetensors.torch import save_file
from torch import nn

import mirrorlib.recipe
from mirrorlib.assembly import open_cache
from mirrorlib.data import cache as caches
from mirrorlib.data.checksum import verified
from mirrorlib.data.store import write_episode
from mirrorlib.errors import UserError
from mirrorlib.evaluation.evaluate import Evaluation
from mirrorlib.evaluation.representations import Represented, load_representations
from mirrorlib.probe import main
from mirrorlib.probing import frozen
from mirrorlib.probing.frozen import Frozen, paired
from mirrorlib.probing.measure import Row, Variant
from mirrorlib.probing.run import Probed, _measured, _metrics
from mirrorlib.probing.settings import ProbeSettings
from mirrorlib.probing.sources import SIDES, Representations, outcomes_of, planned
from mirrorlib.recipe import dump_recipe, load_recipe
from mirrorlib.registry import Registry, build_section
from mirrorlib.training.checkpoint import find_checkpoint, save_checkpoint

RECIPE: dict[str, Any] = {
    "source": {"name": "fields"},
    "observer": {"name": "eyes"},
    "executor": {"name": "hands"},
    "objective": {"name": "none"},
    "batch": {"instructions": 4, "episodes": 2},
    "train": {"steps": 1},
}
MAPS = {"steps": 80, "seeds": 1, "learning_rate": 2e-2}
CPU = torch.device("cpu")


class Bench:
    """Makes runs in a folder, and probes them."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.folder, self.registry = folder, registry

    def run(self, name: str, step: int = 5, **sections: dict[str, Any]) -> Path:
        """A run of made-up models, untrained. sections: options, by section."""
        told = {
            key: {**value} if isinstance(value, dict) else value for key, value in RECIPE.items()
        }
        for section, options in sections.items():
            told[section] = told.get(section, {}) | options
        told |= {"name": name, "data": {"cache": str(self.folder / "cache")}}
        recipe = load_recipe(told, registry=self.registry)
        source = build_section("source", recipe.source)
        cache = open_cache(recipe, source, source.properties)
        for key in cache.missing():
            write_episode(cache.path(key), source.episode(key), cache.layout)
        torch.manual_seed(step + len(name))
        both = nn.ModuleDict({
            "observer": Eyes(ObserverConfig(**sections.get("observer", {}))),
            "executor": Hands(ExecutorConfig(**sections.get("executor", {}))),
        })  # fmt: skip
        run = self.folder / name
        save_checkpoint(run / "checkpoints", step, both, {}, dump_recipe(recipe), keep=9)
        return run

    def probe(self, observer: Path, executor: Path, **settings: Any) -> list[Variant]:
        told = ProbeSettings.model_validate(
            {"name": "p", "observer": str(observer), "executor": str(executor), "maps": MAPS,
             "permutations": 60, **settings}
        )  # fmt: skip
        self.out = self.folder / "out"
        self.out.mkdir(exist_ok=True)
        self.probed = Probed(told, self.out, [], {})
        source = Representations(told, CPU)
        plans = planned(told)
        outcomes, _ = outcomes_of(told, plans[0].executor)
        for plan in plans:
            _measured(told, plan, source, self.probed, outcomes)
        return self.probed.variants


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("probe")
    site = Site(folder / "site")
    site.add("mirrorlib-probed", PLUGIN, module="mirrorlib_probed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site.folder))
        plugins = site.discover()
        registry = Registry(plugins)
        patch.setattr(mirrorlib.recipe, "installed", lambda: registry)
        patch.setattr(frozen, "installed", lambda: plugins)
        yield Bench(folder, registry)


def row(variant: Variant, control: str, level: str) -> Row:
    (found,) = [r for r in variant.rows if (r.control, r.level) == (control, level)]
    return found


def recall(variant: Variant, control: str, read: str, level: str = "instruction") -> float:
    """Recall@1, mean over both directions."""
    recalls = row(variant, control, level).recalls[read]
    return (recalls["recall_at_1_u2e"].value + recalls["recall_at_1_e2u"].value) / 2


@pytest.fixture(scope="module")
def leak(bench: Bench) -> Variant:
    """The executor reads and is blind; the observer recognises, and sees."""
    observer = bench.run("eyes")
    (variant,) = bench.probe(observer, bench.run("leak", executor={"sees": False}))
    return variant


def test_a_leak_through_the_text_is_exposed(leak: Variant):
    assert recall(leak, "real", "instruction") == 1
    assert recall(leak, "text_only", "instruction") == 1
    assert recall(leak, "null_instruction", "instruction") == pytest.approx(0.25, abs=0.2)
    for control in ("real", "text_only", "unshared_camera", "text_alone"):
        for level in ("instruction", "episode"):
            assert recall(leak, control, "within", level) == pytest.approx(1 / 8, abs=0.12)
    assert recall(leak, "text_alone", "instruction") == 1


@pytest.fixture(scope="module")
def aware(bench: Bench) -> Variant:
    """Both see the scene; the executor also reads and the observer also recognises."""
    (variant,) = bench.probe(bench.run("eyes"), bench.run("aware"))
    return variant


def test_what_both_see_is_found_within_the_instruction(aware: Variant):
    found = row(aware, "real", "episode").recalls["within"]["recall_at_1_u2e"]
    assert found.value > 0.7
    assert found.null_95 < 0.4
    assert found.chance == pytest.approx(1 / 8)
    assert recall(aware, "within_instruction", "within", "episode") > 0.7
    assert recall(aware, "null_instruction", "within", "episode") > 0.7
    assert recall(aware, "text_only", "within", "episode") == pytest.approx(1 / 8, abs=0.12)


def test_the_camera_that_both_see_is_taken_away(aware: Variant):
    """What the front camera shows is nowhere else."""
    assert recall(aware, "unshared_camera", "within", "episode") == pytest.approx(1 / 8, abs=0.12)
    assert recall(aware, "unshared_camera", "instruction") > 0.9


def test_less_its_instructions_mean_a_row_does_not_tell_its_instruction(leak: Variant):
    found = recall(leak, "within_instruction", "instruction")
    assert found == pytest.approx(0.25, abs=0.2)


def test_shuffled_training_pairs_leave_chance(leak: Variant, aware: Variant):
    for variant in (leak, aware):
        for level in ("instruction", "episode"):
            assert recall(variant, "shuffled", "within", level) == pytest.approx(1 / 8, abs=0.12)
            assert recall(variant, "shuffled", "episode", level) < 0.15
    assert "shuffled" not in aware.similarities


def test_raw_similarities_stand_beside_the_recalls(aware: Variant, leak: Variant):
    for variant in (aware, leak):
        real = variant.similarities["real"]
        assert real["cka"].value > real["cka"].null_95
        assert real["cka"].null_mean == pytest.approx(0, abs=0.05)
    assert leak.similarities["null_instruction"]["cka"].value == pytest.approx(0, abs=0.01)


def test_the_probe_is_a_function_of_its_settings(bench: Bench, aware: Variant):
    torch.manual_seed(123)
    (again,) = bench.probe(bench.folder / "eyes", bench.folder / "aware", controls=["shuffled"])
    assert row(again, "real", "episode") == row(aware, "real", "episode")
    assert row(again, "shuffled", "episode") == row(aware, "shuffled", "episode")


def test_what_was_computed_can_be_probed_again_as_a_file(bench: Bench, aware: Variant):
    (first,) = bench.probe(bench.folder / "eyes", bench.folder / "aware", controls=["text_only"])
    real, text = (bench.out / f"representations{c}.safetensors" for c in ("", "-text_only"))
    assert set(load_representations(real)) == {"train", "test"}
    (again,) = bench.probe(real, real, controls=["text_only", "shuffled", "unshared_camera"])
    assert row(again, "real", "episode") == row(first, "real", "episode")
    assert again.left_out == {
        "text_only": "the executor is a file",
        "unshared_camera": "the executor is a file",
    }
    (blind,) = bench.probe(bench.folder / "eyes", text, controls=[])
    assert (
        row(blind, "real", "instruction").recalls == row(first, "text_only", "instruction").recalls
    )


def arrays(pairs: Represented, split: str, side: str) -> dict[str, Any]:
    return {
        f"{split}_{side}": getattr(pairs, side).numpy(),
        f"{split}_instructions": np.array(pairs.instructions),
        f"{split}_names": np.array(pairs.names),
    }


def test_arrays_of_others_are_probed_whatever_their_order(bench: Bench, aware: Variant):
    (first,) = bench.probe(bench.folder / "eyes", bench.folder / "aware", controls=[])
    found = load_representations(bench.out / "representations.safetensors")
    for side in ("u", "e"):
        told = {}
        for split, pairs in found.items():
            each = arrays(pairs, split, side)
            order = np.arange(len(pairs.names))[:: -1 if side == "e" else 1]
            told |= {name: array[order] for name, array in each.items()}
        np.savez(bench.folder / f"{side}.npz", **told)
    (again,) = bench.probe(bench.folder / "u.npz", bench.folder / "e.npz", controls=[])
    assert row(again, "real", "episode").recalls == row(first, "real", "episode").recalls


def test_sites_and_checkpoints_are_variants(bench: Bench):
    for step in (5, 10):
        bench.run("eyes", step=step)
        both = bench.run("aware", step=step)
    variants = bench.probe(
        bench.folder / "eyes", both, controls=[], checkpoints="all", levels=["episode"],
        sites={"executor": {"option": "site", "values": ["text"]}},
    )  # fmt: skip
    assert [(v.site, v.checkpoint) for v in variants] == [
        ("as trained", "step-000010"),
        ("executor.site=text", "step-000010"),
        ("as trained", "step-000005"),
        ("executor.site=text", "step-000005"),
    ]
    for variant in variants:
        seen = recall(variant, "real", "within", "episode")
        assert seen == pytest.approx(1 / 8, abs=0.12) if "text" in variant.site else seen > 0.7
    assert any(
        name.startswith("probe/executor.site.text/real/") for name, _ in _metrics(variants[1])
    )


def test_success_is_read_from_rollouts_in_the_same_scenes(bench: Bench, aware: Variant):
    rows = [
        {"task": task, "variation": v, "split": "test", "index": i, "success": bool(i % 2)}
        for task in ("lift", "push") for v in range(2) for i in range(8)
    ]  # fmt: skip
    folder = bench.folder / "rolled"
    folder.mkdir()
    (folder / "rollouts.json").write_text(json.dumps(rows))
    (variant,) = bench.probe(
        bench.folder / "eyes", bench.folder / "aware", controls=[], outcomes=str(folder)
    )
    split = variant.success["episode"]["within"]["hit_at_1"]
    assert (split.instructions, split.solved, split.failed) == (4, 16, 16)
    assert split.interval[0] <= split.difference <= split.interval[1]
    assert "16 solved, 16 failed" in bench.probed.text()
    bench.probe(bench.folder / "eyes", bench.folder / "aware", controls=[], levels=["episode"])
    settings = bench.probed.settings
    told = outcomes_of(settings, planned(settings)[0].executor)[1]
    assert f"`mirrorlib evaluate {bench.folder / 'aware'} evaluation.split=test`" in told


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observer": "nowhere"}, "observer: nowhere is no run, no checkpoint and no file"),
        ({"split": "val"}, "split is val, but .*eyes.* learnt from a source without val episodes"),
        ({"executor": "twice.npz"}, "the executor has two rows called train/lift/0/0"),
        ({"observer": "few.npz", "executor": "many.npz"}, "no episode in common .such as .*of 4"),
        ({"executor": "flat.safetensors"}, "train/u and train/e must be .N, D."),
        ({"executor": "other"}, "learnt from different sources .version: 1 and 2."),
        ({"outcomes": "aware"}, "outcomes: .*aware holds no rollouts.json of the test split"),
        ({"executor": "torn.npz"}, "torn.npz: holds no array 'train_e'"),
        ({"executor": "strange.npz"}, "have no episode in common .such as train/lift/0/0 and x"),
        ({"executor": "nan.npz"}, "e holds numbers that are not finite"),
        ({"executor": "text.npz"}, "text.npz: holds no representations"),
        (
            {"executor": "torn.npz", "checkpoints": "all"},
            "checkpoints is all, but executor is .*torn.npz, which is no run's folder",
        ),
        (
            {"sites": {"executor": {"option": "sight", "values": ["text"]}}},
            "executor.sight: unknown key; did you mean 'site'",
        ),
    ],
)
def test_mistakes_are_one_line(bench: Bench, aware: Variant, settings: dict, message: str):
    bench.run("other", source={"version": 2})
    names = np.array([f"train/lift/0/{i}" for i in range(4)])
    held_out = np.array([f"test/lift/0/{i}" for i in range(4)])
    told = np.array(["lift number 0"] * 4)
    fine = {"train_instructions": told, "test_instructions": told}
    fine |= {"train_names": names, "test_names": held_out}
    np.savez(bench.folder / "torn.npz", train_u=np.ones((4, 2)), **fine)
    rows = np.full((4, 2), np.nan)
    np.savez(bench.folder / "nan.npz", train_e=rows, test_e=rows, **fine)
    strange = fine | {"train_names": np.array(list("xyzw"))}
    np.savez(bench.folder / "strange.npz", train_e=rows, test_e=rows, **strange)
    twice = fine | {"train_names": np.array([names[0], *names[:3]])}
    np.savez(bench.folder / "twice.npz", train_e=rows, test_e=rows, **twice)
    nameless = {key: value for key, value in fine.items() if "names" not in key}
    np.savez(bench.folder / "few.npz", train_u=rows, test_u=rows, **nameless)
    nameless = {key: np.array(["lift number 0"] * 5) for key in nameless}
    np.savez(bench.folder / "many.npz", train_e=np.ones((5, 2)), test_e=np.ones((5, 2)), **nameless)
    flat = {f"{split}/{name}": torch.ones(4) for split in ("train", "test") for name in "ue"}
    flat |= {f"{split}/labels": torch.ones(4, 3) for split in ("train", "test")}
    column = ["lift number 0"] * 4
    texts = json.dumps({"names": column, "instructions": column, "tasks": column})
    save_file(flat, bench.folder / "flat.safetensors", {"train": texts, "test": texts})
    (bench.folder / "text.npz").write_text("no archive")
    here = {
        key: str(bench.folder / value) if isinstance(value, str) and key != "split" and
        (bench.folder / value).exists() else value
        for key, value in settings.items()
    }  # fmt: skip
    runs = {"observer": bench.folder / "eyes", "executor": bench.folder / "aware"}
    with pytest.raises(UserError, match=message) as raised:
        bench.probe(**(runs | {"controls": []} | here))
    assert len(raised.value.lines) == 1


def test_a_run_may_be_evaluated_under_controls_too(
    bench: Bench, capsys: pytest.CaptureFixture[str]
):
    controls = ["text_only", "null_instruction", "unshared_camera"]
    run = bench.run("controlled", evaluation={"controls": controls, "probe_steps": 80})
    recipe = load_recipe(find_checkpoint(run) / "recipe.yaml", registry=bench.registry)
    parts = [Frozen.load(side, find_checkpoint(run), "test", CPU) for side in SIDES]
    cache = parts[1].cache
    joint = SimpleNamespace(executor=parts[1].encoder)
    alone = SimpleNamespace(device=CPU)
    evaluation = Evaluation(alone, joint, recipe, cache, parts[1].source.properties, None)
    train, test = (paired(*(p.rows(s) for p in parts), "here") for s in ("train", "test"))
    found: dict[str, float] = {}
    for control in recipe.evaluation.controls:
        found |= evaluation._controlled(control, train, test, cache.episodes("test"))
    assert found["probe_recall_at_1_u2e_text_only"] == 1
    assert found["probe_recall_at_1_u2e_null_instruction"] < 0.6
    assert found["probe_recall_at_1_chance_episode_unshared_camera"] == pytest.approx(1 / 32)
    unknown = replace(test, instructions=["fly"] * 32)
    assert evaluation._controlled("text_alone", train, unknown, []) == {}
    assert "text_alone: 'fly' is not among the training instructions" in capsys.readouterr().err


def test_the_command_writes_tables_and_tells_mlflow(
    bench: Bench, aware: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(None)
    bench.probe(bench.folder / "eyes", bench.folder / "aware", controls=[])
    file = bench.out / "representations.safetensors"
    (tmp_path / "look.yaml").write_text(
        f"observer: {file}\nexecutor: {file}\nmaps: {{steps: 5, seeds: 5}}\ncontrols: [shuffled]\n"
    )
    assert main(["look.yaml", "permutations=10"]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "runs/look/probe.json").read_text())
    assert (tmp_path / "runs/look/probe.md").read_text() in printed
    assert "| `shuffled` | episode" in printed
    first = content["variants"][0]["rows"][0]
    assert (first["control"], first["level"]) == ("real", "instruction")
    assert content["settings"]["permutations"] == 10
    (run,) = mlflow.MlflowClient().search_runs(["1"])
    assert run.data.tags["probe"] == "look"
    value = first["recalls"]["within"]["recall_at_1_u2e"]["value"]
    assert run.data.metrics["probe/real/instruction/within/recall_at_1_u2e"] == value
    assert run.info.status == "FINISHED"


def test_demonstrations_are_verified_once(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    read = list[Path]()

    def noted(path: Path) -> str:
        read.append(path)
        return verified(path)

    monkeypatch.setattr(caches, "verified", noted)
    monkeypatch.setattr(frozen, "_whole", {})
    run = bench.run("verified")
    bench.probe(run, run, controls=["shuffled"])
    assert len(read) == len(set(read)) and {path.parts[-3] for path in read} == {"train", "test"}


def test_a_wrong_file_of_settings_is_told_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "wrong.yaml"
    file.write_text(
        "observer: a\nexecuter: b\nmaps: {step: 3}\ncontrols: [text_onli]\nsplit: train\n"
    )
    assert main([str(file), "maps.seeds=0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    found = [line.removeprefix(f"{file}:") for line in lines]
    assert "2:1: executer: unknown key; did you mean 'executor'?" in found
    assert "3:8: maps.step: unknown key; did you mean 'steps'?" in found
    assert any(line.startswith("4:12: controls.0: ") and "text_only" in line for line in found)
    assert any(line.startswith("5:1: split: ") for line in found)
    assert any("override maps.seeds=0: maps.seeds: " in line for line in found)
    assert any("executor: is missing" in line for line in found)
