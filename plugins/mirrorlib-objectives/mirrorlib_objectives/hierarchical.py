"""InfoNCE whose positives are of several levels at once: same episode, instruction, task."""

from __future__ import annotations

from torch import Tensor

from mirrorlib.interfaces import Loss, World
from mirrorlib_objectives.batch import check_batch
from mirrorlib_objectives.config import HierarchicalConfig, LevelWeights
from mirrorlib_objectives.infonce import partner_loss, similarity_logs
from mirrorlib_objectives.pairs import compare
from mirrorlib_objectives.temperature import TemperedObjective

LEVELS = ("episode", "instruction", "task")


class Hierarchical(TemperedObjective):
    """Rows that share more are to be nearer: an episode, else an instruction, else a task.

    As a plain loss: `Hierarchical()(u, e, labels).value`, labels (B, 3) int64.

    With s_ij = cos(u_i, e_j) / temperature, P_il the rows that share row i's label at level l and
    w_l the weights over their sum, one direction is

        sum_l w_l mean over p in P_il of -log softmax_j(s_ij)_p,

    L_out of SupCon (arXiv 2004.11362, equation 2) at each level, whose optimum is a softmax that
    puts sum_l w_l [j in P_il] / |P_il| on row j: most on the same episode, less on the same
    instruction, least on the same task. (HiMulCon, arXiv 2204.13207, sums over levels too, one
    temperature and one mask each, on one side.) The value is the mean over rows and both
    directions. Pair by episode, so that a row's labels hold for both sides.

    forward raises ValueError as `InfoNCE` does, and for labels (B,). Its logs are `loss`, `cosine`,
    `accuracy_u2e` and `accuracy_e2u` at each level (`accuracy_u2e_episode`, ...) and
    `temperature`.
    """

    uses_levels = True

    def __init__(
        self,
        temperature: float = 0.1,
        learnable_temperature: bool = False,
        weights: LevelWeights | None = None,
    ) -> None:
        super().__init__(temperature, learnable_temperature)
        chosen = weights or LevelWeights()
        values = [getattr(chosen, level) for level in LEVELS]
        self.weights = [value / sum(values) for value in values]

    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        dtype, weight = check_batch(u, e, labels, world, levels=True)
        scale = self.scale(u, dtype)
        seen = compare(
            u,
            e,
            scale,
            largest_scale=self.largest_scale(),
            levels=0 if labels is None else len(LEVELS),
            labels=labels,
            world=world,
        )
        value = partner_loss(scale * seen.partner, seen, weight)
        if labels is not None:
            excess = (seen.positives_u2e + seen.positives_e2u).sum(0) / 2
            attraction = sum(share * excess[level] for level, share in enumerate(self.weights))
            value = value - weight * scale * attraction
        logs = similarity_logs(value, seen, weight, LEVELS) | {"temperature": 1 / scale.detach()}
        return Loss(value, logs)


def build_hierarchical(config: HierarchicalConfig) -> Hierarchical:
    return Hierarchical(config.temperature, config.learnable_temperature, config.weights)
