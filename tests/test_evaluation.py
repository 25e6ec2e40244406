"""Recognition, rollouts, retrieval, probe and intervals."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import CAMERAS, FakeExecutor, FakeObserver, build_simulator, die, episode
from scipy.stats import binomtest

from mirrorlib.data.store import Layout, StoredEpisode, write_episode
from mirrorlib.errors import UserError
from mirrorlib.evaluation.alignment import fresh_probe, recalls
from mirrorlib.evaluation.closed_loop import SimulatorFailed, roll_out
from mirrorlib.evaluation.recognition import recognise
from mirrorlib.evaluation.representations import Represented
from mirrorlib.evaluation.rollouts import Rollout, Scene
from mirrorlib.evaluation.statistics import wilson
from mirrorlib.interfaces import EpisodeKey
from mirrorlib.processes import hashing_alike
from mirrorlib.randomness import scene_seed


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (7, 25), (194, 240)])
def test_wilson_agrees_with_scipy(k: int, n: int):
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_trials_have_no_interval():
    with pytest.raises(ValueError, match="0 successes of 0 trials"):
        wilson(0, 0)


@pytest.fixture
def stored(tmp_path: Path) -> list[StoredEpisode]:
    episodes = []
    for task in ("lift", "push"):
        for variation in range(2):
            for index in range(2):
                path = tmp_path / f"{task}-{variation}-{index}.safetensors"
                key = EpisodeKey("test", task, variation, index)
                write_episode(path, episode(key), Layout(4, ("front",), CAMERAS))
                episodes.append(StoredEpisode(path))
    return episodes


class Reader(FakeObserver):
    """Embeds a clip by its mean brightness' rank, and a text by the table it is given."""

    def __init__(self, videos: list[list[float]], texts: dict[str, list[float]]) -> None:
        super().__init__()
        self.videos, self.texts = iter(torch.tensor(videos)), texts

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.stack([next(self.videos) for _ in frames])

    def encode_text(self, texts) -> torch.Tensor:
        return torch.tensor([self.texts[text] for text in texts])


def test_recognition_is_the_best_mean_cosine_over_templates(stored: list[StoredEpisode]):
    instructions = {"lift number 0": "lift", "lift number 1": "lift", "push number 0": "push"}
    instructions["push number 1"] = "push"
    plain = dict(zip(sorted(instructions), torch.eye(4).tolist(), strict=True))
    # The second template says the same of all but one, whose text it turns upside down.
    texts = plain | {f"watch: {name}": row for name, row in plain.items()}
    texts["watch: push number 1"] = [0, 0, 0, -1]
    videos = [[0.0] * 4 for _ in stored]
    for row, best in enumerate([0, 0, 1, 2, 2, 0, 3, 3]):
        videos[row][best] = 3.0
    videos[3][0], videos[5][3], videos[5][2], videos[7][2] = 1.0, 1.0, 0.5, 1.0
    result = recognise(
        Reader(videos, texts),
        stored,
        instructions,
        templates=["{}", "watch: {}"],
        clip_frames=4,
        camera="front",
        device=torch.device("cpu"),
        batch_size=3,
    )
    assert result.instructions == sorted(instructions)
    assert result.truth.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert result.predicted.tolist()[:6] == [0, 0, 1, 2, 2, 0]
    assert result.predicted[7] == 2  # 3 in the first template, halved to 0 by the second
    assert result.within_task.tolist()[:6] == [0, 0, 1, 0, 2, 2]
    assert result.accuracy == 4 / 8
    assert result.accuracy_within_task == 5 / 8
    assert (result.chance, result.chance_within_task) == (0.25, 0.5)
    confusion = result.confusion()
    assert confusion.sum() == 8
    assert confusion[1, 2] == confusion[2, 0] == confusion[3, 2] == 1


def act_in(scenes: list[Scene], **settings) -> list[Rollout]:
    defaults = {"cameras": CAMERAS, "max_actions": 3, "workers": 2, "progress": False}
    arguments = defaults | settings
    return roll_out(
        FakeExecutor(), scenes, build_simulator, device=torch.device("cpu"), **arguments
    )


def test_rollouts_end_at_success_and_count_what_went_wrong():
    scenes = [Scene("lift", v, "test", i) for v in (1, 0) for i in range(3)]
    results = act_in(scenes, workers=4, film={scenes[0]})
    assert [r.scene for r in results] == sorted(scenes)
    assert all(r.success and r.actions == 2 and r.errors == 1 for r in results)
    assert {r.instruction for r in results} == {"lift number 0", "lift number 1"}
    assert all(len(r.frames) == (4 if r.scene == scenes[0] else 0) for r in results)


def test_a_camera_that_the_simulator_lacks_is_named():
    with pytest.raises(UserError, match=r"the simulator shows front, wrist, .* trained with above"):
        act_in([Scene("lift", 0, "test", 0)], cameras=("front", "above"))


def test_rollouts_give_up_after_max_actions():
    (result,) = act_in([Scene("lift", 1, "test", 0)], max_actions=1)
    assert (result.success, result.actions) == (False, 1)


def test_a_broken_simulator_is_reported_with_its_traceback():
    with pytest.raises(SimulatorFailed, match="RuntimeError: the simulator broke"):
        act_in([Scene("crash", 0, "test", 0)])


def test_a_dead_simulator_process_is_reported():
    with pytest.raises(UserError, match="ended with exit code 7"):
        roll_out(
            FakeExecutor(),
            [Scene("lift", 0, "test", 0)],
            die,
            cameras=CAMERAS,
            max_actions=1,
            workers=1,
            device=torch.device("cpu"),
            progress=False,
        )


def test_scenes_are_those_of_held_out_demonstrations():
    assert Scene("lift", 3, "test", 5).seed == scene_seed("lift", 3, "test", 5)
    seeds = {
        Scene("lift", 3, split, i).seed for split in ("train", "val", "test") for i in range(9)
    }
    assert len(seeds) == 27


def brute_recall(scores: np.ndarray, labels: np.ndarray) -> float:
    hits = [labels[np.argmax(row)] == label for row, label in zip(scores, labels, strict=True)]
    return float(np.mean(hits))


def test_recalls_agree_with_brute_force():
    rng = np.random.default_rng(0)
    labels = np.array([[i, i // 3, i // 6] for i in range(24)])
    centre = rng.normal(size=(8, 5))[labels[:, 1]]
    u, e = (centre + 0.7 * rng.normal(size=(24, 5)) for _ in range(2))
    found = recalls(torch.from_numpy(u), torch.from_numpy(e), torch.from_numpy(labels))
    scores = (u / np.linalg.norm(u, axis=1, keepdims=True)) @ (
        e / np.linalg.norm(e, axis=1, keepdims=True)
    ).T
    assert found["recall_at_1_u2e"] == pytest.approx(brute_recall(scores, labels[:, 1]))
    assert found["recall_at_1_e2u"] == pytest.approx(brute_recall(scores.T, labels[:, 1]))
    assert found["recall_at_1_u2e_episode"] == pytest.approx(brute_recall(scores, labels[:, 0]))
    assert found["recall_at_1_chance"] == pytest.approx(3 / 24)
    assert found["recall_at_1_chance_episode"] == pytest.approx(1 / 24)


def represented(shared: bool, seed: int, count: int = 240) -> Represented:
    """u and e are random linear views of a common cause, or of causes of their own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.arange(count), torch.arange(count) // 20, torch.zeros(count)], 1)
    cause = torch.randn(12, 8, generator=torch.Generator().manual_seed(99))[labels[:, 1].long()]
    other = torch.randn(count, 8, generator=generator)
    maps = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(2, count, 16, generator=generator)
    return Represented(
        cause @ maps[0] + 0.3 * noise[0],
        (cause if shared else other) @ maps[1] + 0.3 * noise[1],
        labels.long(),
        names=[f"test/lift/0/{i}" for i in range(count)],
        instructions=[f"lift {i // 20}" for i in range(count)],
        tasks=["lift"] * count,
    )


def test_the_fresh_probe_finds_what_is_shared_and_nothing_else():
    found = fresh_probe(represented(True, 0), represented(True, 1), steps=200, seed=0)
    assert found["probe_recall_at_1_u2e"] > 0.9
    assert found["probe_recall_at_1_e2u"] > 0.9
    nothing = fresh_probe(represented(False, 0), represented(False, 1), steps=200, seed=0)
    chance = nothing["probe_recall_at_1_chance"]
    spread = 4 * math.sqrt(chance * (1 - chance) / 240)
    assert nothing["probe_recall_at_1_u2e"] < chance + spread


def test_the_fresh_probe_is_a_function_of_its_seed():
    train, test = represented(True, 0), represented(True, 1)
    torch.manual_seed(1)
    first = fresh_probe(train, test, steps=20, seed=3)
    torch.manual_seed(2)
    assert fresh_probe(train, test, steps=20, seed=3) == first


def test_processes_order_sets_of_strings_alike() -> None:
    """What a simulator draws from a set is the same in every process."""

    def hashes() -> list[str]:
        line = "print(hash('a'), hash('b'))"
        done = [subprocess.run([sys.executable, "-c", line], capture_output=True) for _ in range(2)]
        return [each.stdout.decode() for each in done]

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONHASHSEED", raising=False)
        with hashing_alike():
            first, second = hashes()
        assert first == second
        assert len(set(hashes())) == 2
