"""Every objective on the same frozen representations: what space each makes of them.

    pip install 'mirrorlib[benchmark]'
    python -m mirrorlib.run recipes/none.yaml
    python benchmarks/spaces.py runs/none [--pairing instruction] [--steps 2000] [--json FILE]

Exploratory. Observer and executor are a finished run's, frozen, best of one that never aligned; u
and e of every demonstration are computed once and standardised by the training split. Every
installed objective, its options at their defaults, then trains two fresh linear projectors and its
own parameters with AdamW, all at one learning rate, on the same batches from the same start. What
is read is the space it made, on held-out episodes. `none` trains nothing: two random projections.

A cell is the mean over seeds and the half-width of its 95 % t-interval. A seed decides the
projectors' start and the batches; encoders, demonstrations and held-out episodes are the same for
all, so an interval says nothing of another training run or of other scenes: chance's says how far
a blind guesser strays over so many scenes.

Recall@1, per cent, see -> do (clips look for executions) and do -> see: of the instruction, of the
scene among all, and of the scene among those of its instruction, which the second cannot beat. The
executor is told the instruction, so the first two come through the text as well; the third cannot,
but it may come through pictures alone where the executor sees what the clip's camera sees. The two
sides of `cka`, `distill` and `none` may be rotated against each other at will, so their recall as
it stands says nothing. `turned` is the third recall with both sides centred and e turned onto u as
fits the training scenes best: a probe, given pairs of scenes in every arm.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from scipy.stats import t as student
from torch import Tensor, nn
from tqdm import tqdm

import mirrorlib
from mirrorlib import alignment
from mirrorlib.assembly import assemble, prepare_cache
from mirrorlib.data.pairing import LEVELS, BatchPlan, plan_batches
from mirrorlib.evaluation.representations import Represented, represent
from mirrorlib.interfaces import Objective
from mirrorlib.randomness import seeded
from mirrorlib.recipe import Recipe, load_recipe
from mirrorlib.registry import installed
from mirrorlib.training.checkpoint import find_checkpoint, load_weights

DIM = 256
WEIGHT_DECAY = 0.1
RECALLS = {
    "instruction": "instruction",
    "scene": "scene",
    "within": "scene within instruction",
    "turned": "turned",
}
WAYS = {"u2e": "see -> do", "e2u": "do -> see"}
SPACE = {
    "rank": "effective rank of u",
    "scale": "scale of u",
    "uniformity": "uniformity of u (0: all one way)",
    "alignment": "alignment (0: partners coincide, 2: unrelated)",
    "milliseconds": "CPU ms a step",
}

Numbers = dict[str, float]


def load(checkpoint: Path) -> tuple[Recipe, Represented, Represented]:
    """The recipe, and training and held-out episodes, standardised."""
    recipe = load_recipe(checkpoint / "recipe.yaml", ["train.precision=null"])
    parts = assemble(recipe)
    load_weights(checkpoint, parts.joint)
    parts.joint.to(device := parts.accelerator.device)
    cache = prepare_cache(parts)
    train, test = (
        represent(
            parts.joint,
            tqdm(cache.episodes(split), f"representing {split}"),
            clip_frames=recipe.data.clip_frames,
            camera=recipe.data.clip_cameras[0],
            device=device,
        )
        for split in ("train", recipe.evaluation.split)
    )
    train_u, test_u = _standardised(train.u, test.u)
    train_e, test_e = _standardised(train.e, test.e)
    fitted = replace(train, u=train_u, e=train_e)
    return recipe, fitted, replace(test, u=test_u, e=test_e)


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = train.mean(0), train.std(0) + 1e-4
    return (train - mean) / deviation, (test - mean) / deviation


class Arm:
    """One objective with its own projectors, and the space that they make."""

    def __init__(self, name: str, train: Represented, options: Namespace, seed: int) -> None:
        self.train, self.level = train, LEVELS.index(options.pairing)
        with seeded("spaces", seed, "objective"):
            self.objective: Objective = mirrorlib.build("objective", name)
        self.projectors = nn.ModuleList()
        for side, x in (("observer", train.u), ("executor", train.e)):
            with seeded("spaces", seed, side):
                sizes = {"input_dim": x.shape[1], "dim": DIM}
                self.projectors.append(mirrorlib.build("projector", "linear", **sizes))
        parameters = [*self.projectors.parameters(), *self.objective.parameters()]
        groups = [
            {"params": [p for p in parameters if (p.ndim >= 2) == decayed], "weight_decay": decay}
            for decayed, decay in ((True, WEIGHT_DECAY), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=options.rate, fused=True)

    def fit(self, plans: Sequence[BatchPlan]) -> Numbers:
        """Trains on the plans. Returns the median step's CPU time, where there is one."""
        if not self.objective.uses_projectors:
            return {}
        seconds = []
        for plan in plans:
            start = time.process_time()
            self._step(plan)
            seconds.append(time.process_time() - start)
        return {"milliseconds": 1000 * statistics.median(seconds)}

    def _step(self, plan: BatchPlan) -> None:
        clips = torch.from_numpy(plan.clips[plan.aligned])
        steps = torch.from_numpy(plan.steps[plan.aligned])
        labels = self.train.labels[clips]
        if not self.objective.uses_levels:
            labels = labels[:, self.level]
        zu, ze = self.project(self.train.u[clips], self.train.e[steps])
        self.optimizer.zero_grad()
        self.objective(zu, ze, labels).value.backward()
        self.optimizer.step()
        self.objective.after_step()

    def project(self, u: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return self.projectors[0](u), self.projectors[1](e)

    @torch.no_grad()
    def read(self, test: Represented) -> Numbers:
        """The space on held-out episodes."""
        zu, ze = self.project(test.u, test.e)
        found = recalls(zu, ze, test.labels)
        turned = turn(self.project(self.train.u, self.train.e), (zu, ze))
        within = recalls(*turned, test.labels)
        found |= {f"turned_{way}": within[f"within_{way}"] for way in WAYS}
        space = {
            "rank": alignment.effective_rank(zu),
            "scale": alignment.scale(zu),
            "uniformity": alignment.uniformity(zu),
            "alignment": alignment.alignment(zu, ze),
        }
        return found | {name: float(value) for name, value in space.items()}


def relevance(labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Relevant rows and candidates, (E, E) bool each, of every reading. labels: (E, 3)."""
    scene, instruction = (labels[:, None, i] == labels[None, :, i] for i in (0, 1))
    every = torch.ones_like(scene)
    return {
        "instruction": (instruction, every),
        "scene": (scene, every),
        "within": (scene, instruction),
    }


def recalls(zu: Tensor, ze: Tensor, labels: Tensor) -> Numbers:
    """Recall@1 both ways, per cent, of rows zu, ze: (E, Z)."""
    scores, found = alignment.cosine_scores(zu.double(), ze.double()), {}
    for name, (relevant, candidate) in relevance(labels).items():
        allowed = scores.masked_fill(~candidate, -math.inf)
        found[f"{name}_u2e"] = 100 * float(alignment.recall_at_k(allowed, relevant))
        found[f"{name}_e2u"] = 100 * float(alignment.recall_at_k(allowed.T, relevant.T))
    return found


def chance(labels: Tensor) -> Numbers:
    """Of `recalls`, candidates in random order."""
    found = {
        name: 100 * float((relevant.sum(1) / candidate.sum(1)).mean())
        for name, (relevant, candidate) in relevance(labels).items()
    }
    found["turned"] = found["within"]
    return {f"{name}_{way}": value for name, value in found.items() for way in WAYS}


def turn(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """test's sides, (E, Z) each, centred by train's means, e turned onto u as fits train best."""
    means = [side.mean(0) for side in train]
    centred_u, centred_e = (side - mean for side, mean in zip(train, means, strict=True))
    left, _, right = torch.linalg.svd(centred_e.T.double() @ centred_u.double())
    return test[0] - means[0], (test[1] - means[1]) @ (left @ right).to(test[1].dtype)


def measure(
    recipe: Recipe, train: Represented, test: Represented, options: Namespace
) -> dict[str, list[Numbers]]:
    """Of every objective what was read, by seed. The objectives take turns within a seed."""
    found: dict[str, list[Numbers]] = {
        offer.component.name: []
        for offer in installed().offers("objective")
        if getattr(offer.config_model(), "required_pairing", None) in (None, options.pairing)
    }
    with tqdm(total=options.seeds * len(found), unit="arm") as progress:
        for seed in range(options.seeds):
            plans = plan_batches(
                train.labels.numpy(),
                instructions=recipe.batch.instructions,
                episodes=recipe.batch.episodes,
                steps=options.steps,
                pairing=options.pairing,
                seed=seed,
            )
            for name in found:
                progress.set_postfix_str(name)
                arm = Arm(name, train, options, seed)
                with seeded("spaces", seed, "train"):
                    found[name].append(arm.fit(plans) | arm.read(test))
                progress.update()
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half-width of the 95 % t-interval."""
    quantile = float(student.ppf(0.975, len(values) - 1))
    return statistics.mean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))


def show(
    title: str, columns: Mapping[str, str], found: Mapping[str, list[Numbers]], *more: list[str]
) -> None:
    """Prints a table in Markdown, a row an objective, then `more`."""

    def cell(readings: list[Numbers], column: str) -> str:
        if column not in readings[0]:
            return "–"
        mean, half = interval([reading[column] for reading in readings])
        digits = 2 if column in SPACE and column != "rank" else 1
        return f"{mean:.{digits}f} ± {half:.{digits}f}"

    head = [["objective", *columns.values()], ["---", *["---:"] * len(columns)]]
    rows = [[f"`{name}`", *(cell(each, c) for c in columns)] for name, each in found.items()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [*head, *rows, *more])
    print(f"\n### {title}\n\n{table}")


def show_all(found: Mapping[str, list[Numbers]], luck: Numbers, episodes: int) -> None:
    """luck: what `chance` gives; episodes: over how many."""
    recalled = {f"{n}_{w}": f"{a} {b}" for n, a in RECALLS.items() for w, b in WAYS.items()}
    strays = {c: 196 * math.sqrt(p / 100 * (1 - p / 100) / episodes) for c, p in luck.items()}
    blind = ["chance", *(f"{luck[c]:.1f} ± {strays[c]:.1f}" for c in recalled)]
    show("Recall@1, %", recalled, found, blind)
    show("Space and cost", SPACE, found)


def parse() -> Namespace:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="its folder, or its run's")
    parser.add_argument("--pairing", choices=["episode", "instruction"], default="episode")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.seeds < 5:
        parser.error("--seeds: fewer than 5 say nothing")
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    checkpoint = find_checkpoint(options.checkpoint)
    recipe, train, test = load(checkpoint)
    found = measure(recipe, train, test, options)
    luck = chance(test.labels)
    facts = {
        "checkpoint": f"{recipe.name} {recipe.sha} {checkpoint.name}",
        "batch": f"{recipe.batch.instructions} x {recipe.batch.episodes}",
        "training episodes": len(train.labels),
        f"{recipe.evaluation.split} episodes": len(test.labels),
        "dimensions": f"{train.u.shape[1]} of u, {train.e.shape[1]} of e, {DIM} shared",
        **{name: vars(options)[name] for name in ("pairing", "seeds", "steps", "rate")},
    }
    print(f"*{', '.join(f'{name} {value}' for name, value in facts.items())}*")
    show_all(found, luck, len(test.labels))
    if options.json:
        options.json.write_text(json.dumps(facts | {"chance": luck, "objectives": found}, indent=1))


if __name__ == "__main__":
    main()
