"""Made-up results in the shape of a run's, and what a reader sees of a figure."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import CAMERAS, episode
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mirrorlib.data.store import Layout, write_episode
from mirrorlib.evaluation.recognition import Recognition
from mirrorlib.evaluation.representations import Represented
from mirrorlib.interfaces import EpisodeKey


def represented(
    instructions: int = 7,
    episodes: int = 4,
    tasks: int = 3,
    *,
    shared: bool = True,
    noise: float = 1.0,
) -> Represented:
    """`instructions` of each task. Both sides see their instruction's cause through noise."""
    generator = torch.Generator().manual_seed(0)
    keys = [(t, v, i) for t in range(tasks) for v in range(instructions) for i in range(episodes)]
    instruction = torch.tensor([t * instructions + v for t, v, _ in keys])
    labels = torch.stack(
        [torch.arange(len(keys)), instruction, torch.tensor([t for t, _, _ in keys])], 1
    )
    cause = torch.randn(tasks * instructions, 6, generator=generator)[instruction]
    views = [
        cause @ torch.randn(6, width, generator=generator)
        + noise * torch.randn(len(keys), width, generator=generator)
        for width in (8, 9)
    ]
    z = [cause + 0.7 * torch.randn(cause.shape, generator=generator) for _ in range(2)]
    return Represented(
        views[0],
        views[1],
        labels,
        [f"test/task_{t}/{v}/{i}" for t, v, i in keys],
        [f"do the thing number {v} of {t}" for t, v, _ in keys],
        [f"task_{t}" for t, _, _ in keys],
        *(z if shared else ()),
    )


def record(names: list[str], folder: Path) -> None:
    """Episodes of these names, as a cache keeps them; every pixel is drawn from its name."""
    for name in names:
        split, task, variation, index = name.split("/")
        key = EpisodeKey(split, task, int(variation), int(index))
        path = folder / split / task / f"{variation}-{index}.safetensors"
        write_episode(path, episode(key), Layout(4, ("front",), CAMERAS))


def recognition(rows: Represented) -> Recognition:
    """One clip in four is taken for the next instruction."""
    pairs = sorted(set(zip(rows.tasks, rows.instructions, strict=True)))
    names = [name for _, name in pairs]
    truth = np.array([names.index(name) for name in rows.instructions])
    predicted = np.where(np.arange(len(truth)) % 4 == 3, (truth + 1) % len(names), truth)
    return Recognition(names, [task for task, _ in pairs], truth, predicted, truth)


def drawn_texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that a reader sees, and where, in pixels at the figure's own resolution."""
    drawn: dict[int, Text] = {}
    draw = Text.draw

    def note(self: Text, renderer: object) -> None:
        if self.get_text().strip() and self.get_visible():
            drawn[id(self)] = self
        draw(self, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", note)
        figure.savefig(io.BytesIO(), format="png", dpi=figure.dpi)
    return [(text, Text.get_window_extent(text)) for text in drawn.values()]


def assert_legible(figure: Figure) -> None:
    """No text is below 6 points, covers another, or leaves the figure; and a paper's width holds
    it."""
    assert figure.get_figwidth() <= 7.001
    texts = drawn_texts(figure)
    page = figure.bbox.padded(1)
    for place, (text, box) in enumerate(texts):
        assert text.get_fontsize() >= 6, text
        assert page.x0 <= box.x0 and box.x1 <= page.x1, text
        assert page.y0 <= box.y0 and box.y1 <= page.y1, text
        for other, taken in texts[:place]:
            assert not box.padded(-0.5).overlaps(taken.padded(-0.5)), (text, other)
