"""Time, memory and work of encoders by name, and ViCLIP-B/16 against transformers' towers.

    pip install transformers
    python benchmarks/backbones.py [--encoders 'viclip preset=l14' 'r3d' 'executor:arp preset=tiny']
      [--batch 1] [--dtype bfloat16] [--compile] [--device cpu] [--json FILE]

An encoder is what `mirrorlib.build` builds: an observer's name, or executor:NAME, and its options
as in a recipe. Observers see clips (`encode_video`, uint8 frames of the size and number that
`--size` and `--frames` say, resized within the call), executors learn from steps (`forward`, three
cameras of 128 pixels). `forward` keeps nothing for a backward pass; `forward + backward` is in
training mode, down to every parameter that learns. bfloat16 is autocast over float32 parameters.

GFLOP: matrix products and convolutions of a call (torch's counter, attention as its two products),
of a forward pass times 3 where it is followed by a backward pass. `of ceiling`: the time that they
take at the best matmul rate of the same round, over the time taken. Each sample is a fresh
process (`measure.py`).

Two groups compare ViCLIP-B/16's video tower with others of width 768, 12 layers, 12 heads and
patches of 16 pixels, as they start: transformers' CLIP over one picture with as many tokens as a
clip (1765: 9 frames here, 672 pixels there; the same work), and CLIP and X-CLIP over the 8 frames
of a clip, frame by frame (1576 tokens that attend to 197, where ViCLIP's 1569 attend to all: less
work, see GFLOP).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import measure
import torch
import yaml
from measure import CEILING, Group, Job, Sample
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import mirrorlib
from mirrorlib.interfaces import Steps

ENCODERS = ("viclip preset=tiny", "viclip preset=b16", "viclip preset=l14", "r3d", "executor:arp")
WAYS = ("forward", "forward + backward")
TOWER: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
}
CLIP, XCLIP = "transformers CLIP", "transformers X-CLIP"
WORKSPACE = (-0.5, -0.5, 0.0, 0.5, 0.5, 1.0)
"""Of the executors' made-up steps, in metres."""

Call = Callable[[int], Tensor]
"""Rows in, something to sum and go back from out."""


def named(text: str) -> tuple[str, str, dict[str, Any]]:
    """Kind, name and options of `[executor:]name key=value ...`."""
    name, *options = text.split()
    kind, _, short = name.rpartition(":")
    pairs = (option.partition("=") for option in options)
    return kind or "observer", short, {key: yaml.safe_load(value) for key, _, value in pairs}


def encoder(job: Job) -> tuple[nn.Module, Call]:
    """What `mirrorlib.build` builds, and a call of its first rows."""
    kind, name, options = named(job["name"])
    batch, size = job["batch"], job["size"]
    if kind == "executor":
        options = {"workspace": WORKSPACE, "proprioception_dim": 9} | options
        executor = mirrorlib.build("executor", name, **options).to(measure.device())
        steps = made_up_steps(batch).to(measure.device())

        def learn(rows: int) -> Tensor:
            encoding = executor(steps[:rows])
            total: Tensor = encoding.loss + encoding.representation.float().sum()
            return total

        return executor, learn
    observer = mirrorlib.build("observer", name, **options).to(measure.device())
    shape = (batch, job["frames"], 3, size, size)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8).to(measure.device())
    return observer, lambda rows: observer.encode_video(frames[:rows])


def viclip_tower(job: Job, frames: int) -> tuple[nn.Module, Call]:
    from mirrorlib_viclip import ViCLIP, ViCLIPConfig

    model = ViCLIP(ViCLIPConfig(num_frames=frames, drop_path=0.0)).to(measure.device())
    tower = model.vision_encoder
    clips = torch.randn(job["batch"], frames, 3, 224, 224, device=measure.device())
    return tower, lambda rows: tower(clips[:rows])


def clip_tower(job: Job, frames: int, size: int) -> tuple[nn.Module, Call]:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    tower = CLIPVisionModel(CLIPVisionConfig(image_size=size, **TOWER)).to(measure.device())
    pixels = torch.randn(job["batch"], frames, 3, size, size, device=measure.device())
    return tower, lambda rows: tower(pixels[:rows].flatten(0, 1)).pooler_output


def xclip_tower(job: Job, frames: int) -> tuple[nn.Module, Call]:
    from transformers import XCLIPVisionConfig, XCLIPVisionModel

    config = XCLIPVisionConfig(num_frames=frames, **TOWER)
    tower = XCLIPVisionModel(config).to(measure.device())
    pixels = torch.randn(job["batch"], frames, 3, 224, 224, device=measure.device())
    return tower, lambda rows: tower(pixels[:rows].flatten(0, 1)).pooler_output


SAME_WORK = {
    "ViCLIP-B/16, 9 frames": lambda job: viclip_tower(job, 9),
    f"{CLIP}, 672 pixels": lambda job: clip_tower(job, 1, 672),
}
SAME_CLIP = {
    "ViCLIP-B/16, 8 frames": lambda job: viclip_tower(job, 8),
    f"{CLIP}, 8 frames": lambda job: clip_tower(job, 8, 224),
    f"{XCLIP}, 8 frames": lambda job: xclip_tower(job, 8),
}


def made_up_steps(batch: int) -> Steps:
    """A plane 1 m before three cameras that look down on the workspace from 1 m above it."""
    views, size = 3, 128
    camera = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 1.2], [0, 0, 0, 1]])
    lens = torch.tensor([[float(size), 0, size / 2], [0, size, size / 2], [0, 0, 1]])
    gripper = torch.tensor([0.1, 0.1, 0.3, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    return Steps(
        rgb=torch.randint(0, 256, (batch, views, 3, size, size), dtype=torch.uint8),
        depth=torch.ones(batch, views, size, size),
        intrinsics=lens.expand(batch, views, 3, 3),
        extrinsics=camera.expand(batch, views, 4, 4),
        proprioception=gripper.expand(batch, -1),
        instruction=["push the red button"] * batch,
        text=["push the red button"] * batch,
        action=gripper.expand(batch, -1),
        seed=torch.arange(batch),
    )


def work(job: Job, memory_limit: float | None) -> Sample:
    """What a child does."""
    dtype = getattr(torch, job["dtype"])
    if job["name"] == CEILING:
        return measure.ceiling(dtype)
    torch.manual_seed(0)
    module, call = (SAME_WORK | SAME_CLIP).get(job["name"], encoder)(job)
    learning = job["way"] == "forward + backward"
    module.train(learning)
    encode = torch.compile(call) if job["compile"] else call
    narrow = torch.autocast(measure.device().type, dtype) if dtype != torch.float32 else None

    def once() -> None:
        with torch.set_grad_enabled(learning), narrow or nullcontext():
            total = encode(job["batch"]).float().sum()
        if learning:
            total.backward()

    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    found = measure.sample(once, parameters, memory_limit)
    if job["round"] == 0:
        found["flops"] = job["batch"] * (3 if learning else 1) * forward_flops(call)
        millions = sum(parameter.numel() for parameter in module.parameters()) / 1e6
        found["columns"] = {"M": f"{millions:.1f}", "GFLOP": f"{found['flops'] / 1e9:.4g}"}
    return found


def forward_flops(call: Call) -> int:
    """Of one row. The plain form of attention: the counter knows its products on every device."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        call(1)
    flops: int = counter.get_total_flops()
    return flops


def groups(options: argparse.Namespace) -> Iterator[Group]:
    for way in WAYS:
        job = {
            "way": way,
            "batch": options.batch,
            "dtype": options.dtype,
            "compile": options.compile,
            "frames": options.frames,
            "size": options.size,
        }
        ending = f"{way}, batch {options.batch}, {options.dtype}"
        yield _group(f"Encoders: {ending}", job, options.encoders, {})
        if options.peers:
            peers = {"CLIP": f"{CLIP}, 672 pixels"}
            yield _group(f"1765 tokens: {ending}", job, list(SAME_WORK), peers)
            peers = {"CLIP": f"{CLIP}, 8 frames", "X-CLIP": f"{XCLIP}, 8 frames"}
            yield _group(f"A clip of 8 frames: {ending}", job, list(SAME_CLIP), peers)


def _group(heading: str, job: Job, names: list[str], peers: dict[str, str]) -> Group:
    return Group(heading, [{**job, "name": name} for name in names], 0.0, peers)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--encoders", nargs="*", default=list(ENCODERS), metavar="ENCODER")
    parser.add_argument("--batch", type=int, default=1, help="clips or steps a call")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--frames", type=int, default=8, help="of an observer's clip")
    parser.add_argument("--size", type=int, default=224, help="pixels of an observer's frames")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: a GPU if there is one")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if options.child:
        measure.answer(lambda: work(options.child, options.memory_limit))
        return
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    measure.compare(__file__, [group for group in groups(options) if group.jobs], options)


if __name__ == "__main__":
    main()
