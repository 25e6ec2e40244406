"""The renderer of `arp` against a naive scatter and against the memory it must move.

    python benchmarks/renderer.py [--batches 1 2 4] [--rounds 7] [--threads 1] [--json FILE]

Four cameras' 128 x 128 points a row become three orthographic views of 224 x 224 pixels with ten
channels, of the whole workspace (`whole`) and of a cube a quarter as wide (`zoom`). Naive: for each
row and view, points are sorted by depth and all channels scattered in that order, the nearest last.
Both give the same images, which is checked first.

The floor is what cannot be avoided: reading points, colours and row numbers once and writing the
images once, at the speed at which the same round copies a tensor of 64 MiB.

Within a round everything takes turns; ratios are taken within a round, then their median over
rounds. Times are CPU time on a CPU (others may be using the machine), wall time on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mirrorlib_arp.clouds import Cloud
from mirrorlib_arp.renderer import AXES, VIEWS, WIDE_CHANNELS, render_wide, to_cube

CAMERAS, CAMERA_PIXELS, SIZE = 4, 128**2, 224
CUBES = {"whole": 1.0, "zoom": 0.25}
COPIED = 64 * 2**20


def scene(batch: int, device: torch.device) -> Cloud:
    """A table with boxes on it in the unit cube, as depth cameras see them: surfaces."""
    generator = torch.Generator().manual_seed(0)
    count = batch * CAMERAS * CAMERA_PIXELS
    points = torch.rand(count, 3, generator=generator)
    box = (points[:, :2] * 7).long()
    points[:, 2] = 0.1 + 0.07 * ((box[:, 0] * 3 + box[:, 1] * 5) % 8)
    points[:, 2] += 0.001 * torch.rand(count, generator=generator)
    colours = torch.randint(0, 256, (count, 3), generator=generator, dtype=torch.uint8)
    rows = torch.arange(batch).repeat_interleave(CAMERAS * CAMERA_PIXELS)
    return Cloud(points.to(device), colours.to(device), rows.to(device))


def naive(cloud: Cloud, centre: Tensor, side: float, size: int) -> Tensor:
    """As `render_wide`, one view at a time."""
    image = torch.zeros(len(centre), VIEWS, WIDE_CHANNELS, size * size, device=centre.device)
    pixel = torch.linspace(-1, 1, size, device=centre.device)
    for row in range(len(centre)):
        own = cloud.rows == row
        place = to_cube(cloud.points[own], centre[row], side)
        inside = ((place > 0) & (place < 1)).all(1)
        place, colours = place[inside], cloud.colours[own][inside].float() / 127.5 - 1
        for view, (across, along, depth) in enumerate(AXES):
            order = place[:, depth].argsort(stable=True)
            cell = (place * size).long().clamp(max=size - 1)
            cell = (cell[:, across] * size + cell[:, along])[order]
            distance = 1 - 2 * place[:, [depth]]
            features = torch.cat([place * 2 - 1, colours, distance], 1)[order]
            image[row, view, :7].t()[cell] = features
            hit = torch.zeros(size * size, dtype=torch.bool, device=centre.device)
            hit[cell] = True
            image[row, view, 6, hit] -= image[row, view, 6, hit].mean()
            image[row, view, 7] = view - 1
            image[row, view, 8] = pixel.repeat_interleave(size)
            image[row, view, 9] = pixel.repeat(size)
        image[row, :, :3] /= image[row, :, :3].abs().max()
    return image.unflatten(3, (size, size))


def least_bytes(cloud: Cloud, batch: int) -> int:
    """Of points, colours and rows read, and images written."""
    read = sum(x.numel() * x.element_size() for x in (cloud.points, cloud.colours, cloud.rows))
    return read + batch * VIEWS * WIDE_CHANNELS * SIZE**2 * 4


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """CPU time of a call, or on a GPU wall time."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def check(device: torch.device) -> None:
    """Both renderers draw the same."""
    cloud, centre = scene(2, device), torch.full((2, 3), 0.5, device=device)
    for side in CUBES.values():
        ours, theirs = (draw(cloud, centre, side, SIZE) for draw in (render_wide, naive))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def measure(batch: int, cube: str, rounds: int, device: torch.device, bar: tqdm) -> list[dict]:
    """One dictionary a round: seconds of ours, naive and the floor."""
    cloud, centre = scene(batch, device), torch.full((batch, 3), 0.5, device=device)
    source = torch.rand(COPIED // 4, device=device)
    target = torch.empty_like(source)
    calls = {
        "ours": lambda: render_wide(cloud, centre, CUBES[cube], SIZE),
        "naive": lambda: naive(cloud, centre, CUBES[cube], SIZE),
        "copy": lambda: target.copy_(source),
    }
    for call in calls.values():
        call()
    found = []
    for _ in range(rounds):
        times = {name: min(seconds(call, device) for _ in range(3)) for name, call in calls.items()}
        times["floor"] = least_bytes(cloud, batch) / (2 * COPIED) * times.pop("copy")
        found.append(times)
        bar.update()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for all samples")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check(device)
    samples = {}
    with tqdm(total=len(CUBES) * len(options.batches) * options.rounds) as bar:
        for cube in CUBES:
            for batch in options.batches:
                samples[f"{cube} {batch}"] = measure(batch, cube, options.rounds, device, bar)
    print("| cube, rows | ours / floor | naive / ours | ms a row, median | least | floor |")
    print("|---|---|---|---|---|---|")
    for name, rounds in samples.items():
        batch = int(name.split()[1])
        over = statistics.median(r["ours"] / r["floor"] for r in rounds)
        slower = statistics.median(r["naive"] / r["ours"] for r in rounds)
        own = [1000 * r["ours"] / batch for r in rounds]
        floor = statistics.median(1000 * r["floor"] / batch for r in rounds)
        middle = statistics.median(own)
        print(
            f"| {name} | {over:.1f} | {slower:.1f} | {middle:.1f} | {min(own):.1f} | {floor:.2f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(samples, indent=1))


if __name__ == "__main__":
    main()
