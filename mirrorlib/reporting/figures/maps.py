"""Maps of representations in the plane: t-SNE and PCA of u, of e, and of the shared space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mirrorlib.evaluation.representations import Represented
from mirrorlib.reporting.figures.groups import Colour, Groups
from mirrorlib.reporting.figures.labels import fix_layout, place_labels
from mirrorlib.reporting.figures.style import DOUBLE, shorten, styled

Rows = NDArray[np.float64]
Embed = Callable[[Rows], tuple[Rows, tuple[str, str]]]
"""From (N, D) to (N, 2) and the names of the two axes, empty where they mean nothing."""

TOLD_APART = 42
"""Groups whose numbers and colours a reader can still follow; above it, tasks are shown."""
ITERATIONS = 500
TOGETHER = 0.08
"""Share of the map's width within which the two sides of a group share one label."""
LABEL = 6.0
"""Points about the radius of a number."""


def tsne(represented: Represented) -> Figure:
    """t-SNE (van der Maaten and Hinton 2008), as `_maps` draws it."""
    return _maps(represented, tsne_rows, "t-SNE")


def pca(represented: Represented) -> Figure:
    """The two directions of most variance, as `_maps` draws them."""
    return _maps(represented, pca_rows, "PCA")


def tsne_rows(rows: Rows) -> tuple[Rows, tuple[str, str]]:
    """rows: (N, D), N >= 1. Perplexity min(30, (N - 1) / 3), a fixed seed, so that equal rows give
    equal maps. One row, or rows that are all equal, are at the origin."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if not np.ptp(rows, axis=0).any():
        return np.zeros((len(rows), 2)), ("", "")
    start = "pca" if min(rows.shape) > 1 else "random"
    perplexity = min(30.0, (len(rows) - 1) / 3)
    # Threads would wait for each other longer than they compute, and round in another order.
    with threadpool_limits(1):
        found = TSNE(
            perplexity=perplexity, init=start, random_state=0, max_iter=ITERATIONS
        ).fit_transform(rows)
    return np.asarray(found, dtype=np.float64), ("", "")


def pca_rows(rows: Rows) -> tuple[Rows, tuple[str, str]]:
    """rows: (N, D), N >= 1. Each direction is named with its share of the variance; directions
    beyond what the rows span are 0."""
    found, shares = np.zeros((len(rows), 2)), np.zeros(2)
    if np.ptp(rows, axis=0).any():
        from sklearn.decomposition import PCA

        fitted = PCA(min(2, *rows.shape), svd_solver="full").fit(rows)
        count = fitted.n_components_
        found[:, :count], shares[:count] = fitted.transform(rows), fitted.explained_variance_ratio_
    first, second = (f"component {k + 1} ({100 * shares[k]:.0f} % of variance)" for k in range(2))
    return found, (first, second)


@styled
def _maps(represented: Represented, embed: Embed, method: str) -> Figure:
    """u, e and, where projectors were trained, the shared space of unit rows.

    A marker is an episode: a circle is the observer's side, a triangle the executor's; its colour
    and the number at a group's median say the instruction, or, where there are too many, the task.
    """
    groups = Groups.by_instruction(represented.instructions, represented.tasks)
    if len(groups.names) > TOLD_APART:
        groups = Groups.by_task(represented.tasks)
    colours = groups.colours()
    columns = _legend_columns(groups)
    below = 0.3 + 0.115 * -(-len(groups.names) // columns)
    shared = represented.zu is not None and represented.ze is not None
    figure = Figure(figsize=(DOUBLE, (4.5 if shared else 3.4) + below), layout="constrained")
    if shared:
        panels = figure.subplot_mosaic([["u", "z"], ["e", "z"]], width_ratios=[1, 2.05])
    else:
        panels = figure.subplot_mosaic([["u", "e"]])
    texts = {
        "u": "observer u  ●",
        "e": "executor e  ▲",
        "z": "shared space:  observer ●, executor ▲",
    }
    maps = {}
    for name, axes in panels.items():
        sides = _sides(represented, name)
        points, names = embed(np.concatenate(list(sides.values())))
        maps[name] = dict(zip(sides, np.split(points, len(sides)), strict=True))
        _scatter(axes, maps[name], groups, colours)
        axes.set_title(
            f"{method} of the {texts[name]}" if name == "z" else f"{method}, {texts[name]}"
        )
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
    _legend(figure, groups, colours, columns)
    fix_layout(figure)
    for name, axes in panels.items():
        _number(axes, maps[name], groups)
    return figure


def _sides(represented: Represented, panel: str) -> dict[str, Rows]:
    """Marker -> rows (E, D) of what a panel shows."""
    if panel == "u":
        return {"o": represented.u.double().numpy()}
    if panel == "e":
        return {"^": represented.e.double().numpy()}
    assert represented.zu is not None and represented.ze is not None
    sides = {"o": represented.zu.double(), "^": represented.ze.double()}
    return {
        marker: (z / z.norm(dim=1, keepdim=True).clamp_min(1e-12)).numpy()
        for marker, z in sides.items()
    }


def _scatter(axes: Axes, sides: dict[str, Rows], groups: Groups, colours: list[Colour]) -> None:
    for marker, points in sides.items():
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=11 if marker == "o" else 13,
            c=[colours[k] for k in groups.of],
            marker=marker,
            linewidths=0.3,
            edgecolors="white",
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color="#BBBBBB")
    axes.margins(0.06)


def _number(axes: Axes, sides: dict[str, Rows], groups: Groups) -> None:
    """The number of each group at its median, or beside it where the number would cover the group;
    where both sides lie together, once."""
    width = max(np.ptp(np.concatenate(list(sides.values())), axis=0).max(), 1e-12)
    anchors, texts, away = [], [], []
    for k in range(len(groups.names)):
        rows = [points[groups.of == k] for points in sides.values()]
        medians = [np.median(points, 0) for points in rows]
        if np.linalg.norm(np.ptp(medians, axis=0)) < TOGETHER * width:
            rows, medians = [np.concatenate(rows)], [np.mean(medians, 0)]
        anchors += medians
        texts += [str(k + 1)] * len(medians)
        reaches = [_reach(axes, *group) for group in zip(rows, medians, strict=True)]
        away += [reach + LABEL if reach < LABEL else 0.0 for reach in reaches]
    place_labels(axes, np.array(anchors), texts, away)


def _reach(axes: Axes, points: Rows, centre: Rows) -> float:
    """How far nine of ten of a group's points lie from its centre at most, in points of print."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    shown = axes.transData.transform(points) - axes.transData.transform(centre)
    return float(np.quantile(np.linalg.norm(shown, axis=1), 0.9)) * 72 / figure.dpi


def _legend_columns(groups: Groups) -> int:
    longest = max(len(name) for name in groups.names)
    return 4 if longest <= 28 else 3 if longest <= 40 else 2


def _legend(figure: Figure, groups: Groups, colours: list[Colour], columns: int) -> None:
    width = {4: 28, 3: 40, 2: 64}[columns]
    figure.legend(
        handles=[
            Line2D([], [], marker="s", linestyle="", markersize=4, color=colour)
            for colour in colours
        ],
        labels=[f"{k}  {shorten(name, width)}" for k, name in enumerate(groups.names, start=1)],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        handletextpad=0.3,
        labelspacing=0.25,
        columnspacing=1.2,
    )
