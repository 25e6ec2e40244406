"""RLBench's files and the cache: against PIL and pickle, against pictures, against memory.

    python benchmarks/data.py [ROOT] [--episodes 16] [--rounds 5] [--counts 10 100 1000 10000]

ROOT, by default what MIRRORLIB_RLBENCH_DATA names, holds demonstrations in RLBench's layout. It
must be trusted: the peer reads its pickles with Python's own `pickle`.

Reading: episodes read whole, every picture of four cameras decoded to colours or metres, by
`read_episode`, by PIL and pickle doing the same and no more, and by
`rlbench.utils.get_stored_demos` where RLBench is installed. Both give the same numbers, which is
checked first.

Batches: 32 rows (a clip of 8 frames, a step of 4 RGB-D cameras) from the cache, from the
pictures (`read_episode`, decoding only what a batch needs), and a plain copy of as many bytes at
the speed at which the same round copies 64 MiB. Then the cost a row, opening included or not, over
so many episodes (hard links of those recorded), the time to the first batch and the memory that
opened episodes hold.

Freed memory is kept, as training keeps it. Ratios are taken within a round, then their median over
rounds. Times are CPU time, except for the first batch. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mirrorlib.data.batches import PlannedBatches, load
from mirrorlib.data.checksum import verified
from mirrorlib.data.pairing import BatchPlan
from mirrorlib.data.store import Layout, StoredEpisode, write_episode
from mirrorlib.training.memory import keep_freed_memory
from mirrorlib_rlbench import RLBenchDataset, read_episode

CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
CLIP, ROWS = 8, 32
COPIED = 64 * 2**20
STEPS = 12
"""Batches over which the cost of one is taken."""


class Stub:
    """Stands in for RLBench's classes."""


class Unpickler(pickle.Unpickler):
    """Python's own, for files that name classes of RLBench."""

    def find_class(self, module: str, name: str) -> Any:
        return Stub if module.startswith("rlbench") else super().find_class(module, name)


def peer(folder: Path) -> dict[str, NDArray[Any]]:
    """Colours (T, H, W, 3) and metres (T, H, W) of every camera, by PIL and pickle."""
    with (folder / "low_dim_obs.pkl").open("rb") as file:
        told = Unpickler(file).load()._observations
    found = {}
    for camera in CAMERAS:
        numbers = sorted(int(file.stem) for file in (folder / f"{camera}_rgb").iterdir())
        colours = [np.asarray(Image.open(folder / f"{camera}_rgb" / f"{n}.png")) for n in numbers]
        found[f"{camera}_rgb"] = np.stack(colours)
        metres = []
        for n in numbers:
            image = np.asarray(Image.open(folder / f"{camera}_depth" / f"{n}.png"))
            share = (image.astype(np.uint32) @ [2**16, 2**8, 1]) / (2.0**24 - 1)
            near, far = (told[n].misc[f"{camera}_camera_{of}"] for of in ("near", "far"))
            metres.append((near + share * (far - near)).astype(np.float32))
        found[f"{camera}_depth"] = np.stack(metres)
    return found


def ours(folder: Path) -> dict[str, NDArray[Any]]:
    """As `peer`."""
    episode = read_episode(folder, CAMERAS)
    colours = {f"{camera}_rgb": np.asarray(episode.rgb[camera]) for camera in CAMERAS}
    return colours | {f"{camera}_depth": np.asarray(episode.depth[camera]) for camera in CAMERAS}


def stock(folder: Path) -> Any:
    """RLBench's own reader. Raises ImportError."""
    from rlbench.observation_config import ObservationConfig
    from rlbench.utils import get_stored_demos

    wanted = ObservationConfig()
    wanted.set_all(True)
    wanted.overhead_camera.set_all(False)
    root, task = folder.parents[3], folder.parents[2].name
    variation = int(folder.parents[1].name.removeprefix("variation"))
    number = int(folder.name.removeprefix("episode"))
    return get_stored_demos(
        1, False, str(root), variation, task, wanted, random_selection=False,
        from_episode_number=number,
    )  # fmt: skip


def seconds(call: Callable[[], object]) -> float:
    """CPU time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def resident() -> int:
    """Bytes of memory that this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def reading(folders: Sequence[Path], rounds: int) -> Iterator[str]:
    """Rows of the first table."""
    for name, value in peer(folders[0]).items():
        np.testing.assert_array_equal(ours(folders[0])[name], value)
    frames = sum(len(read_episode(folder, CAMERAS).frames) for folder in folders)
    readers: dict[str, Callable[[Path], object]] = {"ours": ours, "PIL and pickle": peer}
    try:
        stock(folders[0])
        readers["get_stored_demos"] = stock
    except Exception as error:
        yield f"get_stored_demos left out: {type(error).__name__}: {error}"
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in tqdm(range(rounds), "reading"):
        for name, reader in readers.items():
            times[name].append(seconds(lambda reader=reader: [reader(f) for f in folders]))
    yield "| reader | episodes a CPU-second | frames (4 RGB-D cameras) | time / PIL and pickle |"
    yield "|---|---|---|---|"
    for name, own in times.items():
        middle = statistics.median(own)
        over = [a / b for a, b in zip(own, times["PIL and pickle"], strict=True)]
        yield (
            f"| {name} | {len(folders) / middle:.1f} | {frames / middle:.0f} | "
            f"{statistics.median(over):.2f} |"
        )


def from_pictures(folders: Sequence[Path], rng: np.random.Generator) -> None:
    """What a batch needs, decoded from the files."""
    for _ in range(ROWS):
        episode = read_episode(folders[rng.integers(len(folders))], CAMERAS)
        np.asarray(episode.rgb["front"][np.linspace(0, len(episode.frames) - 1, CLIP).astype(int)])
        episode = read_episode(folders[rng.integers(len(folders))], CAMERAS)
        frame = rng.integers(len(episode.frames))
        for camera in CAMERAS:
            episode.rgb[camera][frame], episode.depth[camera][frame]


def batches_of(episodes: Sequence[StoredEpisode]) -> PlannedBatches:
    """Rows of episodes drawn at random."""
    rng = np.random.default_rng(0)

    def plan() -> BatchPlan:
        clips, steps = rng.integers(len(episodes), size=(2, ROWS))
        seeds = rng.integers(2**40, size=(2, ROWS))
        return BatchPlan(clips, steps, np.ones(ROWS, bool), *seeds)

    return PlannedBatches(episodes, [plan() for _ in range(STEPS)], CLIP)


def size(batches: PlannedBatches) -> int:
    """Bytes of one batch."""
    parts = (vars(batches[0].clips) | vars(batches[0].steps)).values()
    return sum(part.nbytes for part in parts if hasattr(part, "nbytes"))


def cached(files: Sequence[Path], folders: Sequence[Path], rounds: int) -> Iterator[str]:
    """Rows of the second table."""
    batches, rng = batches_of([StoredEpisode(file) for file in files]), np.random.default_rng(0)
    content = size(batches)
    source, target = np.ones(COPIED, np.uint8), np.empty(COPIED, np.uint8)
    total = sum(file.stat().st_size for file in files)
    calls: dict[str, Callable[[], object]] = {
        "cache": lambda: [batches[i] for i in range(STEPS)],
        "pictures": lambda: from_pictures(folders, rng),
        "copy": lambda: np.copyto(target, source),
        "verify": lambda: [verified(file) for file in files],
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(rounds), "batches"):
        for name, call in calls.items():
            times[name].append(seconds(call))
    cache = [value / STEPS for value in times["cache"]]
    copies = [value / COPIED * content for value in times["copy"]]
    ratios = {"pictures": times["pictures"], "copying its bytes": copies}
    yield (
        f"a batch of {ROWS} rows, {content / 1e6:.1f} MB, from the cache: median "
        f"{1e3 * statistics.median(cache):.1f} ms, least {1e3 * min(cache):.1f} ms; a row "
        f"{1e6 * statistics.median(cache) / ROWS:.0f} us"
    )
    for name, own in ratios.items():
        over = statistics.median(a / b for a, b in zip(own, cache, strict=True))
        yield f"{name} / cache: {over:.2f} ({1e3 * statistics.median(own):.1f} ms a batch)"
    yield f"verifying: {total / statistics.median(times['verify']) / 1e9:.2f} GB a CPU-second"


def linked(files: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """`count` episodes that are hard links of these files."""
    paths = [folder / str(count) / f"0-{i}.safetensors" for i in range(count)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        os.link(files[number % len(files)], path)
    return paths


def first_batch(batches: PlannedBatches, workers: int) -> float:
    """Wall seconds until there is one."""
    start = time.perf_counter()
    next(load(batches, 0, workers))
    return time.perf_counter() - start


def growth(
    files: Sequence[Path], folder: Path, counts: Sequence[int], rounds: int
) -> Iterator[str]:
    """Rows of the third table."""
    yield "| episodes | opening one, us | a row, us, median | least | first batch | bytes each |"
    yield "|---|---|---|---|---|---|"
    for count in tqdm(counts, "episodes"):
        paths, before = linked(files, folder, count), resident()
        start = time.process_time()
        episodes = [StoredEpisode(path) for path in paths]
        opening = (time.process_time() - start) / count
        held = (resident() - before) / count
        batches = batches_of(episodes)
        latency = first_batch(batches, 0)
        rows = STEPS * ROWS
        own = [
            seconds(lambda b=batches: [b[i] for i in range(STEPS)]) / rows for _ in range(rounds)
        ]
        yield (
            f"| {count} | {1e6 * opening:.0f} | {1e6 * statistics.median(own):.0f} | "
            f"{1e6 * min(own):.0f} | {1e3 * latency:.0f} ms | {held:.0f} |"
        )
    yield f"first batch by two more processes: {first_batch(batches, 2):.2f} s"


def record(source: RLBenchDataset, folder: Path, count: int) -> list[Path]:
    """The first episodes, in the cache's files."""
    layout = Layout(CLIP, ("front",), CAMERAS)
    keys = sorted(source.keys("train"), key=lambda key: key.index)[:count]
    files = [folder / "recorded" / f"{n}.safetensors" for n in range(len(keys))]
    for file, key in zip(files, tqdm(keys, "recording"), strict=True):
        write_episode(file, source.episode(key), layout)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", default=os.environ.get("MIRRORLIB_RLBENCH_DATA"))
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100, 1000, 10000])
    parser.add_argument("--json", type=Path, help="file for the lines printed")
    options = parser.parse_args()
    if not options.root:
        parser.error("name the folder of demonstrations, or set MIRRORLIB_RLBENCH_DATA")
    keep_freed_memory()
    folders = sorted(Path(options.root).glob("train/*/variation*/episodes/episode0"))
    folders = folders[: options.episodes]
    if not folders:
        parser.error(f"{options.root}: holds no train/TASK/variationN/episodes/episode0")
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        files = record(RLBenchDataset(options.root), Path(temporary), options.episodes)
        for table in (
            reading(folders, options.rounds),
            cached(files, folders, options.rounds),
            growth(files, Path(temporary), options.counts, options.rounds),
        ):
            for line in table:
                lines.append(line)
                tqdm.write(line)
            tqdm.write("")
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
