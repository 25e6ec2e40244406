"""A tracking server over HTTP, a process of its own: runs, inputs, artefacts, and going on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow")

from fakes import FakeSource  # noqa: E402
from mlflow_store import fresh_store, served  # noqa: E402

from mirrorlib.data.cache import Cache  # noqa: E402
from mirrorlib.data.store import Layout, write_episode  # noqa: E402
from mirrorlib.dataset_inputs import dataset_inputs  # noqa: E402
from mirrorlib.errors import DemonstrationFailed  # noqa: E402
from mirrorlib.tracking import Tracker, track  # noqa: E402

MEMORY = "system/system_memory_usage_megabytes"
LAYOUT = Layout(2, ("front",), ("front", "wrist"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("server")
    with served(fresh_store(folder), folder / "artifacts") as address:
        yield address


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Two scenes of each instruction, of which the second always fails, in train alone."""
    source = FakeSource(count=2, failing=[1])
    cache = Cache(tmp_path_factory.mktemp("cache"), "made:up", source, LAYOUT)
    for key in [*source.keys("train"), *source.keys("test")]:
        path = cache.path(key)
        try:
            write_episode(path, source.episode(key), LAYOUT)
        except DemonstrationFailed:
            if key.split == "train":
                path.with_suffix(".failed").write_text("missed\n")
    return cache


@pytest.fixture
def client(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mirrorlib.tracking.FLUSH_SECONDS", 0.0)
    mlflow.set_tracking_uri(address)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def test_a_run_is_logged_and_resumed_over_http(client, cache: Cache, tmp_path: Path):
    def start(continued_from: int) -> Tracker:
        tracker = Tracker(tmp_path, "remote", "r", {"arm": "infonce"}, {"seed": 0}, continued_from)
        (tmp_path / "recipe.yaml").write_text("seed: 0\n")
        tracker.artifact(tmp_path / "recipe.yaml")
        tracker.inputs(dataset_inputs(cache, "made:up", ("train", "test")))
        return tracker

    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
        (folder / "README.md").write_text(f"# {folder.name}\n")

    first = start(0)
    for step in (1, 2, 3):
        first.log({"train/loss": 1 / step}, step)
    first.log_system({MEMORY: 10.0})
    first.made_artifact(fill, "model")
    assert first.flush()  # and then this process is killed

    second = start(2)
    with track(second) as log:
        for step in (3, 4):
            log({"train/loss": 1 / step}, step)
        second.log_system({MEMORY: 20.0})
        log({"eval/success_rate": 0.5}, 4)
        second.made_artifact(fill, "model")
    assert second.sent

    (run,) = client.search_runs([client.get_experiment_by_name("remote").experiment_id])
    identity = run.info.run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "r")
    assert run.data.params == {"seed": "0"}
    assert run.data.metrics["eval/success_rate"] == 0.5
    losses = client.get_metric_history(identity, "train/loss")
    assert [(m.step, m.value) for m in losses] == [(n, pytest.approx(1 / n)) for n in (1, 2, 3, 4)]
    assert [m.value for m in client.get_metric_history(identity, MEMORY)] == [10.0, 20.0]
    assert {a.path for a in client.list_artifacts(identity)} == {"recipe.yaml", "model"}
    assert [a.path for a in client.list_artifacts(identity, "model")] == [
        "model/README.md", "model/model.safetensors",
    ]  # fmt: skip
    loaded = Path(client.download_artifacts(identity, "model", str(tmp_path)))
    assert (loaded / "model.safetensors").read_bytes() == bytes(range(256)) * 40
    assert (loaded / "README.md").read_text() == "# model\n"
    _check_inputs(run, cache)


def _check_inputs(run, cache: Cache) -> None:
    found = {one.dataset.name: one for one in run.inputs.dataset_inputs}
    assert len(run.inputs.dataset_inputs) == 2
    assert found.keys() == {"made:up-train", "made:up-test"}
    for split, failed in (("train", 4), ("test", 0)):
        one = found[f"made:up-{split}"]
        assert {tag.key: tag.value for tag in one.tags} == {"mlflow.data.context": split}
        assert cache.folder.name.endswith(f"-{one.dataset.digest}")
        assert json.loads(one.dataset.source) == {"uri": str(cache.folder / split)}
        profile = json.loads(one.dataset.profile)
        assert profile["episodes"] == profile["instructions"] == 4
        assert profile["keyframe_steps"] == 12
        assert profile["failed_demonstrations_dropped"] == failed
        assert profile["layout"]["step_cameras"] == ["front", "wrist"]
        names = [column["name"] for column in json.loads(one.dataset.schema)["mlflow_colspec"]]
        assert {"clip/front", "rgb/wrist", "depth/front", "instruction", "action"} <= set(names)
        assert "clip/wrist" not in names


def test_an_export_that_cannot_be_made_holds_up_nothing(client, tmp_path: Path, capsys):
    from mirrorlib.errors import UserError

    def fail(folder: Path) -> None:
        raise UserError("weights do not load")

    tracker = Tracker(tmp_path, "remote-broken", "r", {}, {})
    with track(tracker) as log:
        tracker.made_artifact(fail, "model")
        log({"train/loss": 1.0}, 1)
    assert tracker.sent
    assert capsys.readouterr().err.count("weights do not load") == 1
    (run,) = client.search_runs([client.get_experiment_by_name("remote-broken").experiment_id])
    assert run.data.metrics == {"train/loss": 1.0}
