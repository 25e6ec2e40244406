"""Maps, matrices and bars: all there, legible, and the same again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from pictured import assert_legible, drawn_texts, recognition, represented

from mirrorlib.reporting.figures import (
    confusion_matrix,
    pca,
    save,
    similarity_matrix,
    success_bars,
    tsne,
)
from mirrorlib.reporting.figures.groups import Groups
from mirrorlib.reporting.figures.labels import fix_layout, place_labels
from mirrorlib.reporting.figures.maps import pca_rows, tsne_rows


def markers(figure: Figure, panel: int) -> list[PathCollection]:
    found = [c for c in figure.axes[panel].collections if isinstance(c, PathCollection)]
    return sorted(found, key=lambda c: len(c.get_paths()[0].vertices))  # triangles come first


@pytest.mark.parametrize("draw", [pca, tsne])
def test_a_map_shows_every_episode_of_both_sides_in_its_instructions_colour(draw):
    rows = represented()
    figure = draw(rows)
    assert_legible(figure)
    panels = [markers(figure, k) for k in range(3)]
    by_shape = [[len(c.get_paths()[0].vertices) for c in panel] for panel in panels]
    assert sorted(map(len, panels)) == [1, 1, 2]
    assert {shape for panel in by_shape for shape in panel} == set(
        next(s for s in by_shape if len(s) == 2)
    )
    for panel in panels:
        for side in panel:
            assert len(side.get_offsets()) == 84
            colours = [to_hex(colour) for colour in side.get_facecolors()]
            assert len(set(colours)) == 21
            assert len(set(zip(colours, rows.instructions, strict=True))) == 21


def test_a_map_numbers_every_instruction_and_says_what_the_numbers_mean():
    rows = represented()
    figure = pca(rows)
    names = sorted(set(zip(rows.tasks, rows.instructions, strict=True)))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [f"{k}  {name}" for k, (_, name) in enumerate(names, start=1)]
    for panel in figure.axes:
        written = {text.get_text() for text in panel.texts if text.get_text()}
        assert written == {str(k) for k in range(1, 22)}


def test_without_a_shared_space_there_are_two_maps():
    figure = pca(represented(shared=False))
    assert [len(markers(figure, k)) for k in range(len(figure.axes))] == [1, 1]
    assert_legible(figure)


def test_with_too_many_instructions_a_map_tells_tasks_apart():
    figure = pca(represented(instructions=9, episodes=2, tasks=5))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [f"{k + 1}  task {k}" for k in range(5)]


def test_the_shared_space_is_mapped_by_direction_alone():
    rows = represented(tasks=1)
    assert rows.zu is not None
    longer = type(rows)(**vars(rows) | {"zu": rows.zu * torch.arange(1, 29)[:, None]})
    first, second = (markers(pca(r), 1) for r in (rows, longer))
    for before, after in zip(first, second, strict=True):
        np.testing.assert_allclose(before.get_offsets(), after.get_offsets(), atol=1e-5)


def test_principal_components_are_those_of_the_singular_value_decomposition():
    rows = np.random.default_rng(0).normal(size=(30, 5)) * [5, 3, 1, 1, 1]
    found, names = pca_rows(rows)
    centred = rows - rows.mean(0)
    left, values, _ = np.linalg.svd(centred)
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :2] * values[:2]), atol=1e-9)
    share = values[0] ** 2 / (values**2).sum()
    assert names[0] == f"component 1 ({100 * share:.0f} % of variance)"


def test_the_same_rows_give_the_same_map():
    rows = np.random.default_rng(0).normal(size=(40, 5))
    np.testing.assert_array_equal(tsne_rows(rows)[0], tsne_rows(rows.copy())[0])


def test_tsne_keeps_clusters_together():
    rows = np.random.default_rng(0).normal(size=(40, 5)) + 50 * np.repeat(np.eye(4, 5), 10, axis=0)
    found = tsne_rows(rows)[0]
    near = np.linalg.norm(found[:, None] - found, axis=-1).argsort(1)[:, 1:6]
    assert (near // 10 == np.arange(40)[:, None] // 10).all()


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (2, 1), (3, 1), (5, 3)])
@pytest.mark.parametrize("embed", [pca_rows, tsne_rows])
def test_a_few_rows_or_columns_have_a_map(embed, shape: tuple[int, int]):
    found, _ = embed(np.random.default_rng(0).normal(size=shape))
    assert found.shape == (shape[0], 2)
    assert np.isfinite(found).all()
    assert not embed(np.ones(shape))[0].any()


@pytest.mark.parametrize("draw", [pca, tsne, similarity_matrix])
@pytest.mark.parametrize(("instructions", "episodes"), [(1, 1), (1, 2), (2, 1)])
def test_tiny_runs_have_pictures(draw, instructions: int, episodes: int):
    assert_legible(draw(represented(instructions, episodes, tasks=1)))


def test_labels_at_one_place_move_apart_and_stay_near():
    figure = Figure(figsize=(3, 3), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    fix_layout(figure)
    labels = place_labels(axes, np.full((30, 2), 0.5), [str(k) for k in range(30)], [0.0] * 30)
    boxes = [label.get_window_extent() for label in labels]
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])
    assert labels[0].get_position() == (0, 0)
    assert max(np.hypot(*label.get_position()) for label in labels) < 45


def test_a_number_stands_beside_a_group_that_it_would_cover():
    """One instruction's rows lie in a knot, the others far apart."""
    rows = represented(4, 6, tasks=1)
    names = list(dict.fromkeys(rows.instructions))
    u = torch.randn(len(rows.names), 2, generator=torch.Generator().manual_seed(0))
    knot = torch.tensor([name == names[0] for name in rows.instructions])
    u[knot] = torch.tensor([3.0, 3.0]) + 1e-3 * u[knot]
    figure = pca(replace(rows, u=u, zu=None, ze=None))
    axes = next(axes for axes in figure.axes if "observer" in axes.get_title())
    dots = axes.collections[0].get_offsets()
    reach = {text.get_text(): np.hypot(*text.get_position()) for text in axes.texts}
    assert reach["1"] >= 6.0
    label = next(text for text in axes.texts if text.get_text() == "1")
    box = label.get_window_extent()
    shown = axes.transData.transform(dots[knot.numpy()])
    assert not any(box.contains(*point) for point in shown)
    assert min(reach[str(k)] for k in (2, 3, 4)) < 6.0


@pytest.mark.parametrize("tasks", [1, 4, 8, 18])
def test_every_group_has_a_colour_of_its_own(tasks: int):
    names = [(f"i{v}", f"t{t:02}") for t in range(tasks) for v in range(8)]
    groups = Groups.by_instruction([i for i, _ in names], [t for _, t in names])
    colours = np.array(groups.colours())
    assert ((colours >= 0) & (colours <= 1)).all()
    assert len({to_hex(colour) for colour in groups.colours()}) == 8 * tasks
    assert colours.sum(1).max() < 2.7  # none is lost on white paper


def test_the_confusion_matrix_says_how_often_what_was_taken_for_what():
    rows = represented()
    result = recognition(rows)
    figure = confusion_matrix(result)
    assert_legible(figure)
    axes = figure.axes[0]
    written = {
        tuple(round(x) for x in text.get_position()[::-1]): int(text.get_text())
        for text in axes.texts
    }
    expected = result.confusion()
    assert written == {(i, j): expected[i, j] for i, j in np.argwhere(expected)}
    assert [t.get_text() for t in axes.get_yticklabels()] == result.instructions
    assert "63 right (75.0 %; chance 4.8 %)" in figure.get_suptitle()


def test_a_crowded_matrix_names_tasks_alone():
    figure = confusion_matrix(recognition(represented(instructions=30, episodes=1)))
    assert_legible(figure)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "task 0",
        "task 1",
        "task 2",
    ]


def test_the_similarity_matrix_is_sorted_by_task_and_instruction():
    rows = represented()
    order = torch.from_numpy(np.random.default_rng(0).permutation(84))
    shuffled = type(rows)(
        *(x[order] for x in (rows.u, rows.e, rows.labels)),
        *([names[i] for i in order] for names in (rows.names, rows.instructions, rows.tasks)),
        *(z[order] for z in (rows.zu, rows.ze) if z is not None),
    )
    figure = similarity_matrix(shuffled)
    assert_legible(figure)
    assert rows.zu is not None and rows.ze is not None
    u, e = (z / z.norm(dim=1, keepdim=True) for z in (rows.zu, rows.ze))
    blocks = (u @ e.T).reshape(21, 4, 21, 4).mean((1, 3))
    (image,) = figure.axes[0].get_images()
    shown = np.asarray(image.get_array()).reshape(21, 4, 21, 4).mean((1, 3))
    np.testing.assert_allclose(shown, blocks, atol=1e-5)
    assert image.norm.vmin == -image.norm.vmax
    own = float((u * e).sum(1).mean())
    assert f"same episode {own:+.2f}" in figure.get_suptitle()


def test_bars_say_how_many_and_how_sure():
    figure = success_bars({"push_buttons": (3, 4), "turn_tap": (0, 4)})
    assert_legible(figure)
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0, 3 / 8]
    assert [text.get_text() for text in axes.texts] == ["3/4", "0/4", "3/8"]
    ends = axes.collections[0].get_segments()[0][:, 0]
    assert ends == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert "all tasks" not in {t.get_text() for t, _ in drawn_texts(success_bars({"tap": (1, 2)}))}


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_the_same_picture_is_the_same_bytes(tmp_path: Path, kind: str):
    for name in ("first", "second"):
        save(success_bars({"push": (1, 4), "turn": (4, 4)}), tmp_path / f"{name}.{kind}", 100)
    first, second = sorted(tmp_path.iterdir())
    assert first.read_bytes() == second.read_bytes()
    if kind == "pdf":  # whole TrueType fonts travel with it
        assert b"/FontFile2" in first.read_bytes()
        assert b"/Type3" not in first.read_bytes()
