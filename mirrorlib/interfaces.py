"""What a plugin implements, and the data that passes between plugins and core.

One letter an axis: B batch, N batch of all processes, K classes or texts, T frames, V views
(cameras), C H W image, L words, D representation, Z shared space, P proprioception.
Lengths are metres, angles radians, quaternions xyzw, poses in the world frame; camera axes are
OpenCV's (x right, y down, z forward).
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Split = Literal["train", "val", "test"]


# ---------------------------------------------------------------- what a source or simulator gives


@dataclass(frozen=True)
class Observation:
    """What the robot senses at one moment.

    rgb[camera]: (H, W, 3) uint8. depth[camera]: (H, W) float32, metres along the optical axis.
    intrinsics[camera]: (3, 3) with positive focal length, in pixels (the centre of the top left
    pixel is (0.5, 0.5)). extrinsics[camera]: (4, 4) camera to world.
    gripper_pose: (7,) tool centre, xyz and quaternion. gripper_open: 1.0 open, 0.0 closed.
    proprioception: (P,) float32, whatever else the executor may know of the robot.
    """

    rgb: Mapping[str, NDArray[np.uint8]]
    depth: Mapping[str, NDArray[np.float32]]
    intrinsics: Mapping[str, NDArray[np.float64]]
    extrinsics: Mapping[str, NDArray[np.float64]]
    gripper_pose: NDArray[np.float64]
    gripper_open: float
    proprioception: NDArray[np.float32]


@dataclass(frozen=True)
class Episode:
    """One demonstration. T counts the frames present (a recording may be thinned).

    rgb[camera]: (T, H, W, 3) uint8. depth[camera]: (T, H, W) float32 metres.
    intrinsics[camera]: (T, 3, 3). extrinsics[camera]: (T, 4, 4).
    gripper_pose: (T, 7). gripper_open: (T,). proprioception: (T, P).
    ignore_collisions: (T,) whether a motion planner may pass through things to reach that frame.
    keyframes: ascending frame indices in PerAct's sense, the last frame included.
    descriptions: the first is the instruction's canonical wording, the others paraphrases.
    origin: where it came from (seed, file, versions), for the record.
    """

    task: str
    variation: int
    descriptions: Sequence[str]
    rgb: Mapping[str, NDArray[np.uint8]]
    depth: Mapping[str, NDArray[np.float32]]
    intrinsics: Mapping[str, NDArray[np.float64]]
    extrinsics: Mapping[str, NDArray[np.float64]]
    gripper_pose: NDArray[np.float64]
    gripper_open: NDArray[np.float32]
    proprioception: NDArray[np.float32]
    ignore_collisions: NDArray[np.float32]
    keyframes: Sequence[int]
    success: bool
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class EpisodeKey:
    """Names one episode of a source: the `index`-th scene of a variation within a split."""

    split: str
    task: str
    variation: int
    index: int

    def __str__(self) -> str:
        return f"{self.split}/{self.task}/{self.variation}/{self.index}"


@dataclass(frozen=True)
class DataProperties:
    """What encoders must know of the data.

    An encoder's configuration may declare fields of these names; where the recipe leaves them
    out, the core fills them in from the source.
    """

    cameras: tuple[str, ...]
    proprioception_dim: int
    workspace: tuple[float, float, float, float, float, float]
    """Bounds in metres: x, y, z smallest, then x, y, z largest."""


class Source(abc.ABC):
    """Demonstrations, by split. Scenes of train, val and test never share a seed."""

    properties: DataProperties

    @abc.abstractmethod
    def keys(self, split: Split) -> Sequence[EpisodeKey]:
        """The episodes that the split should hold. Cheap: nothing is recorded or read."""

    @abc.abstractmethod
    def episode(self, key: EpisodeKey) -> Episode:
        """Record or read one episode, as a function of the key alone.

        Called in worker processes, so a source must pickle. Raises DemonstrationFailed, and
        UserError for files that are missing or broken.
        """

    @abc.abstractmethod
    def fingerprint(self) -> Mapping[str, Any]:
        """All that decides what `episode` returns (configuration, versions): keys the cache."""

    def stamp(self, key: EpisodeKey) -> str:
        """Differs whenever the files that the episode is read from do; "" where there are none.

        Called in threads, for every episode before a run: names, sizes and times of files, not
        what they hold. An episode whose stamp is not the one that it was recorded with is read
        anew. Files that are missing are for `episode` to report.
        """
        return ""

    def episodes(self, split: Split) -> Iterator[Episode]:
        """Every episode of the split that did not fail, in order."""
        from mirrorlib.errors import DemonstrationFailed

        for key in self.keys(split):
            try:
                yield self.episode(key)
            except DemonstrationFailed:
                continue


@dataclass(frozen=True)
class ActionSpace:
    """Bounds of an action (9,): xyz, quaternion xyzw, gripper open, ignore_collisions."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Simulator(Protocol):
    """Closed-loop execution of keyframe actions, one scene at a time, in one process.

    Rollouts run in worker processes that lead a group of their own. One that crashes, raises or
    takes too long is killed, without `close` and with every process it has started, and its scene
    begun anew in another. UserError, for what the user can mend, ends the whole run with its line.
    A process may hold two simulators at once, of which one films.
    """

    action_space: ActionSpace

    def tasks(self) -> dict[str, int]:
        """Each task's number of variations."""
        ...

    def reset(
        self, task: str, variation: int, seed: int, episode: Episode | None = None
    ) -> tuple[Observation, list[str]]:
        """Lay out a scene, a function of (task, variation, seed), or restore `episode`'s scene.

        episode: a demonstration as the source gave it, whose `origin` says what is needed; its
        task and variation are those asked for. Nothing of earlier scenes may be left: a scene is
        the same in a new process. Returns the first observation and the descriptions, the
        instruction first. Raises UserError for a task, variation or episode that it cannot lay out.
        """
        ...

    def step(self, action: NDArray[np.float64]) -> tuple[Observation, bool, bool, dict[str, Any]]:
        """Execute one keyframe action (9,). Returns observation, success, done and info.

        `info["frames"]`, where present, is what a camera saw on the way: (T, H, W, 3) uint8.
        `info["error"]`, where present, says why a motion could not be executed, and beside it
        `info["error_kind"]`, in a word of letters, digits and _, of what kind that is (such as
        planning or ik): kinds are counted apart.
        """
        ...

    def close(self) -> None:
        """Free what the simulator holds; it is not used again."""
        ...


# ------------------------------------------------------------------------- what an encoder is given


class _Rows:
    """Batched fields: tensors (B, ...) and lists of B strings move and slice together."""

    def to(self, device: torch.device | str) -> Self:
        """The same rows, tensors on `device`."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)  # type: ignore[type-var]

    def __getitem__(self, rows: slice) -> Self:
        chosen = {
            f.name: value[rows]
            for f in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, f.name), Tensor | list)
        }
        return replace(self, **chosen)  # type: ignore[type-var]


@dataclass(frozen=True)
class Clips(_Rows):
    """What the observer sees: one clip of a whole episode a row.

    frames: (B, T, 3, H, W) uint8. instruction: B keys of positive pairs. text: B wordings, the
    paraphrase drawn for the row. seed: (B,) int64, the row's own seed: augmentation drawn from
    it (`mirrorlib.randomness.uniform`) is the same however rows are spread over processes.
    """

    frames: Tensor
    camera: list[str]
    instruction: list[str]
    text: list[str]
    seed: Tensor

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class Observations(_Rows):
    """What the executor senses.

    rgb: (B, V, 3, H, W) uint8. depth: (B, V, H, W) float32, metres along the optical axis.
    intrinsics: (B, V, 3, 3). extrinsics: (B, V, 4, 4) camera to world, OpenCV axes.
    proprioception: (B, P) float32.
    """

    rgb: Tensor
    depth: Tensor
    intrinsics: Tensor
    extrinsics: Tensor
    proprioception: Tensor

    def __len__(self) -> int:
        return len(self.rgb)


@dataclass(frozen=True)
class Steps(Observations):
    """What the executor learns from: an observation and the next keyframe's action.

    instruction, text, seed: as in Clips. action: (B, 9) float32 = xyz, quaternion xyzw, gripper
    open, ignore_collisions.
    """

    instruction: list[str]
    text: list[str]
    action: Tensor
    seed: Tensor


# ------------------------------------------------------------------------------------ what learns


@dataclass(frozen=True)
class Encoding:
    """representation: (B, D). loss: () the encoder's own task loss. logs: detached scalars."""

    representation: Tensor
    loss: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class Observer(nn.Module, abc.ABC):
    """Understands actions: encodes video, and texts in the same space (L_AU of the paper)."""

    representation_dim: int

    @abc.abstractmethod
    def forward(self, clips: Clips) -> Encoding:
        """Representation u and the task loss. Rows of one instruction are positives."""

    @abc.abstractmethod
    def encode_video(self, frames: Tensor) -> Tensor:
        """frames: (B, T, 3, H, W) uint8. Returns (B, P), compared with texts by cosine."""

    @abc.abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """K texts. Returns (K, P)."""


class Executor(nn.Module, abc.ABC):
    """Executes actions: a policy trained on keyframes (L_EE of the paper)."""

    representation_dim: int

    @abc.abstractmethod
    def forward(self, steps: Steps) -> Encoding:
        """Representation e and the imitation loss."""

    @abc.abstractmethod
    def act(self, observations: Observations, instructions: Sequence[str]) -> Tensor:
        """The next keyframe action of each row, (B, 9) float32; the rows are independent."""

    def reset(self) -> None:
        """Forget what earlier calls of `act` left behind. Called before rollouts begin."""


class Projector(nn.Module, abc.ABC):
    """Maps a representation (B, D) into the shared space (B, Z)."""

    output_dim: int

    @abc.abstractmethod
    def forward(self, representation: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Loss:
    """value: () to back-propagate. logs: detached scalars."""

    value: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """The rows of one process, without gradients.

    rows: their place among the N. u, e: (B, Z) and labels: (B,) or (B, 3) or None, as that process
    handed them to the objective. extra: what it handed to `World.blocks`.
    """

    rows: slice
    u: Tensor
    e: Tensor
    labels: Tensor | None
    extra: tuple[Tensor, ...]


class World(Protocol):
    """The batch of all processes, for objectives whose rows look at other rows.

    size: number of processes. total: N. rows: the own rows' place among them.
    u, e: (N, Z) and labels: (N,) or (N, 3) of all processes, gathered when first asked for;
    gradients flow back to the process that holds the row.
    """

    @property
    def size(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def rows(self) -> slice: ...
    @property
    def u(self) -> Tensor: ...
    @property
    def e(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor | None: ...

    def blocks(self, *extra: Tensor) -> Iterator[Block]:
        """The rows of every process, the own first, one process at a time, without gradients.

        extra: own tensors (B, ...) that travel along. A block's tensors are the caller's until the
        next is asked for. Every process must exhaust it as often.
        """
        ...


class Objective(nn.Module, abc.ABC):
    """Aligns matching rows of u and e. Usable alone, as any loss: `objective(u, e).value`.

    Computed in max(float32, input dtype) with autocast off; knows nothing of processes. The value
    of a row-wise objective is (W / N) times the sum over the own rows, both directions, so that
    the mean of gradients over W processes is the gradient of one process with all N rows.
    """

    uses_projectors: bool = True
    """False: no projector is built, and the alignment term costs nothing."""
    uses_levels: bool = False
    """True: it is given labels (B, 3) = episode, instruction, task; False: (B,) of the pairing."""

    @abc.abstractmethod
    def forward(
        self,
        u: Tensor,
        e: Tensor,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> Loss:
        """u, e: (B, Z), own rows. labels: int64, equal values are positives, (B,) or, where
        `uses_levels`, (B, 3); None: only the diagonal. world: None in one process."""

    def after_step(self) -> None:
        """Called after every optimiser step, to keep parameters within their range."""


@dataclass(frozen=True)
class TextEncoding:
    """tokens: (K, L, D). mask: (K, L) bool, True where there is a word. pooled: (K, D)."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class Text(nn.Module, abc.ABC):
    """A text tower that observers and executors build on."""

    width: int

    @abc.abstractmethod
    def forward(self, texts: Sequence[str]) -> TextEncoding:
        """K texts of any length up to the tower's limit; longer ones are cut."""
