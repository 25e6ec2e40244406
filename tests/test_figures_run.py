"""A run's pictures from the files in its folder: frames, sheets, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import episode
from matplotlib.colors import to_hex
from pictured import assert_legible, recognition, record, represented
from small_run import RECIPES

from mirrorlib.cli import main
from mirrorlib.data.store import StoredEpisode
from mirrorlib.errors import UserError
from mirrorlib.evaluation.recognition import (
    RECOGNITION,
    read_recognition,
    write_recognition,
)
from mirrorlib.evaluation.representations import FILE, save_representations
from mirrorlib.evaluation.rollouts import Rollout, Scene, write_outcomes
from mirrorlib.interfaces import EpisodeKey
from mirrorlib.recipe import dump_recipe, load_recipe
from mirrorlib.reporting.figures import contact_sheet, draw_run, retrieval_grid
from mirrorlib.reporting.figures.frames import Frames
from mirrorlib.reporting.figures.retrieval import SIGNS, neighbours, queries
from mirrorlib.reporting.videos import Film, write_video

TASKS = ("lift_block", "turn_tap")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run without demonstrations on this machine."""
    folder = tmp_path / "run"
    folder.mkdir()
    recipe = load_recipe(
        RECIPES / "infonce.yaml", [f"data.cache={tmp_path / 'cache'}", "data.clip_cameras=[front]"]
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    rows = represented(2, 2, tasks=2)
    save_representations(folder / FILE, {"test": rows})
    write_recognition(recognition(rows), folder / RECOGNITION)
    rollouts = []
    for task in TASKS:
        for index in range(2):
            frames = np.full((4 * (1 - index), 8, 8, 3), 90, dtype=np.uint8)
            success = task == "turn_tap"
            scene = Scene(task, 0, "test", index)
            rollouts.append(Rollout(scene, f"do {task} {index}", success, 3, 0, frames))
            if index == 0:
                write_video(rollouts[-1], folder / "videos" / f"{task}.mp4", 10)
    write_outcomes(rollouts, folder)
    return folder


@pytest.mark.parametrize("way", ["see_to_do", "do_to_see"])
def test_neighbours_are_in_the_order_of_cosine(way):
    rows = represented(3, 2)
    assert rows.zu is not None and rows.ze is not None
    from_, to = (rows.zu, rows.ze) if way == "see_to_do" else (rows.ze, rows.zu)
    for query, found in zip(from_.numpy(), neighbours(rows, way), strict=True):
        cosines = [float(query @ c / np.linalg.norm(query) / np.linalg.norm(c)) for c in to.numpy()]
        assert found.tolist() == sorted(range(18), key=lambda k: -cosines[k])


def test_queries_are_the_first_episodes_of_spread_instructions():
    assert queries(represented(7, 4)) == [0, 20, 40, 60, 80]
    assert queries(represented(2, 3, tasks=1)) == [0, 3]


@pytest.mark.parametrize("way", ["see_to_do", "do_to_see"])
def test_the_grid_shows_frames_of_query_and_nearest(tmp_path: Path, way):
    rows = represented(2, 3, noise=3)
    record(rows.names, tmp_path)
    figure = retrieval_grid(rows, Frames(tmp_path, 4, "front"), way)
    assert_legible(figure)
    panels = np.array(figure.axes).reshape(5, 6)
    seen = {"*": 0, "+": 0, "-": 0}
    for line, query in zip(panels, queries(rows), strict=True):
        shown = [query, *neighbours(rows, way)[query][:5]]
        for place, (axes, row) in enumerate(zip(line, shown, strict=True)):
            file = (
                tmp_path
                / f"test/{rows.tasks[row]}/{'-'.join(rows.names[row].split('/')[2:])}.safetensors"
            )
            stored = StoredEpisode(file)
            is_clip = (place == 0) == (way == "see_to_do")
            # Twelve recorded frames, all kept; the third of four segments has its middle at 7.5.
            frame = stored.clip("front", [7])[0] if is_clip else stored.step(0)["rgb"][0]
            np.testing.assert_array_equal(
                axes.get_images()[0].get_array(), frame.transpose(1, 2, 0)
            )
            text, colour = (
                axes.get_xlabel().replace("\n", " "),
                to_hex(axes.spines["top"].get_edgecolor()),
            )
            assert rows.instructions[row] in text
            if place:
                kind = (
                    "scene" if row == query
                    else "instruction" if rows.instructions[row] == rows.instructions[query]
                    else "wrong"
                )  # fmt: skip
                assert (text[0], colour.upper()) == SIGNS[kind]
                seen[{"scene": "*", "instruction": "+", "wrong": "-"}[kind]] += 1
    assert min(seen.values()) > 0


def test_one_episode_has_a_grid(tmp_path: Path):
    rows = represented(1, 1, tasks=1)
    record(rows.names, tmp_path)
    assert len(retrieval_grid(rows, Frames(tmp_path, 4, "front"), "see_to_do").axes) == 2


@pytest.mark.parametrize(("frames", "shown"), [(40, 12), (12, 12), (5, 5), (1, 1)])
def test_a_contact_sheet_shows_the_first_and_the_last_frame(frames: int, shown: int):
    film = Film(
        np.arange(frames, dtype=np.uint8)[:, None, None, None]
        .repeat(9, 1)
        .repeat(12, 2)
        .repeat(3, 3),
        10,
    )
    figure = contact_sheet(
        film, "open the very long and winding top drawer of the left cabinet", False, 25
    )
    if frames > 5:
        assert_legible(figure)
    values = [
        int(axes.get_images()[0].get_array()[0, 0, 0]) for axes in figure.axes if axes.get_images()
    ]
    assert len(values) == shown == len(set(values))
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0, frames - 1)
    titles = "".join(axes.get_title(loc="left") for axes in figure.axes)
    assert "✗ not solved, 25 actions: open the very" in titles
    assert figure.axes[shown - 1].get_xlabel() == f"{(frames - 1) / 10:.1f} s"


def test_every_picture_of_a_run_is_drawn_from_its_files(run: Path, capsys):
    drawn = draw_run(run, dpi=40)
    names = {str(file.relative_to(run / "figures")) for file in drawn.files}
    maps = {"tsne.png", "pca.png", "similarity.png"}
    sheets = {f"rollouts/{task}.png" for task in TASKS}
    assert names == maps | sheets | {"confusion_matrix.png", "success.png"}
    assert not drawn.failed
    (reason,) = drawn.left_out
    assert drawn.left_out[reason] == ["retrieval_see_to_do", "retrieval_do_to_see"]
    assert reason.endswith(f"mirrorlib record {run / 'recipe.yaml'} brings them")
    assert {str(p.relative_to(run / "figures")) for p in (run / "figures").rglob("*.*")} == names
    assert (
        "pictures left out: retrieval_see_to_do, retrieval_do_to_see: " in capsys.readouterr().err
    )


def test_a_picture_that_fails_is_named_and_costs_no_other(run: Path, monkeypatch, capsys):
    def broken(rows: object) -> None:
        raise ZeroDivisionError("no\nspread")

    monkeypatch.setattr("mirrorlib.reporting.figures.run.tsne", broken)
    drawn = draw_run(run, run / "elsewhere", "svg", 40)
    assert drawn.failed == {"tsne": "ZeroDivisionError: no spread"}
    assert len(drawn.files) == 6 == len(list((run / "elsewhere").rglob("*.svg")))
    line = "mirrorlib: picture tsne could not be drawn: ZeroDivisionError: no spread\n"
    assert line in capsys.readouterr().err


def test_a_run_without_results_leaves_pictures_out(run: Path):
    for name in (FILE, RECOGNITION, "rollouts.json"):
        (run / name).unlink()
    for video in (run / "videos").iterdir():
        video.unlink()
    drawn = draw_run(run)
    assert not drawn.files and not drawn.failed
    assert len(drawn.left_out) == 3
    assert all(reason.endswith("is not there") for reason in drawn.left_out)


def test_without_a_shared_space_its_pictures_are_left_out(run: Path):
    save_representations(run / FILE, {"test": represented(2, 2, tasks=2, shared=False)})
    left_out = draw_run(run, dpi=40).left_out
    shared = ["similarity", "retrieval_see_to_do", "retrieval_do_to_see"]
    assert left_out == {"its objective trains no shared space": shared}


def test_frames_are_those_of_the_recipes_cache(run: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"not on this machine; mirrorlib record .* brings them"):
        Frames.of_run(run)
    recipe = load_recipe(run / "recipe.yaml")
    from mirrorlib.assembly import executor_view, open_cache
    from mirrorlib.registry import build_section

    source = build_section("source", recipe.source)
    folder = open_cache(recipe, source, executor_view(recipe, source)).folder
    record(["test/turn_tap/0/3"], folder)
    rgb = episode(EpisodeKey("test", "turn_tap", 0, 3)).rgb["front"]
    frames = Frames.of_run(run)
    np.testing.assert_array_equal(frames.scene("test/turn_tap/0/3"), rgb[0])
    assert any((frames.clip("test/turn_tap/0/3") == frame).all() for frame in rgb[5:9])


def test_the_command_draws_and_says_where(run: Path, tmp_path: Path, capsys):
    assert main(["figures", str(run), "--format", "pdf", "--out", str(tmp_path / "p")]) == 0
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(str(file) for file in (tmp_path / "p").rglob("*.pdf"))
    assert len(printed) == 7
    assert main(["figures", str(tmp_path)]) == 2
    assert "is no run's folder: it holds no recipe.yaml" in capsys.readouterr().err
    assert main(["figures", str(run), "--dpi", "0"]) == 2
    (run / FILE).unlink()
    (run / "videos" / "turn_tap.mp4").write_bytes(b"no video")
    assert main(["figures", str(run)]) == 2
    assert "1 pictures could not be drawn, see above" in capsys.readouterr().err


def test_recognition_is_read_as_it_was_written(tmp_path: Path):
    before = recognition(represented())
    write_recognition(before, tmp_path / RECOGNITION)
    after = read_recognition(tmp_path / RECOGNITION)
    assert (after.instructions, after.tasks) == (before.instructions, before.tasks)
    for name in ("truth", "predicted", "within_task"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    (tmp_path / RECOGNITION).write_text('{"truth": []}')
    with pytest.raises(UserError, match=r"recognition.json: holds no recognition"):
        read_recognition(tmp_path / RECOGNITION)


def test_a_run_that_diverged_loses_its_maps_alone(run: Path):
    rows = represented(2, 2, tasks=2)
    rows.u[0, 0] = torch.nan
    save_representations(run / FILE, {"test": rows})
    drawn = draw_run(run, dpi=40)
    assert set(drawn.failed) == {"tsne", "pca"}
    assert all("NaN" in reason for reason in drawn.failed.values())
