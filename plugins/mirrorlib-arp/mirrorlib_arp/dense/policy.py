"""The dense policy: a chunk of future actions, from a state vector, pictures, or both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mirrorlib.errors import UserError
from mirrorlib_arp.chunking import ChunkingTransformer, Layer, Linear, Mixture, TokenType
from mirrorlib_arp.dense.config import DenseConfig
from mirrorlib_arp.dense.pictures import Pictures

FLAT = 1e-6
"""Numbers of a standard deviation below this are constant and only shifted."""


@dataclass(frozen=True)
class DenseObservation:
    """What is observed now. state: (B, S). rgb: (B, V, 3, H, W) uint8. Either may be missing."""

    state: Tensor | None = None
    rgb: Tensor | None = None


class DensePolicy(nn.Module):
    """Predicts the next H actions as one chunk of Gaussians, each with its own mean and spread.

    After ARP's dense variants (Zhang et al. 2024; Push-T and ALOHA), where chunks of one action
    fail: neighbouring actions are so alike that copying the last one explains nearly everything.
    The sequence is a state token, then H actions of A numbers; pictures are read by AdaLN
    cross-attention in every layer. It is no mirrorlib executor: those act by keyframes (B, 9).

    Call `normalise_by` with the training data first: the network sees and predicts numbers of mean
    0 and standard deviation 1.
    """

    state_mean: Tensor
    state_std: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.config = config
        width, action = config.width, config.action_dim
        for name, size in (("state", config.state_dim or 0), ("action", action)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        one_chunk = (config.chunk or config.horizon) >= config.horizon
        head = Mixture(width, action, config.components, config.min_std)
        seen = None if one_chunk else Linear(action, width)
        types = [TokenType("action", seen, head, config.chunk)]
        self.layout = [("action", config.horizon)]
        if config.state_dim is not None:
            types.insert(0, TokenType("state", Linear(config.state_dim, width)))
            self.layout.insert(0, ("state", 1))
        self.pictures: Pictures | None = None
        if config.cameras:
            self.pictures = Pictures(config.cameras, config.channels, width)
        layer = Layer("pictures", "adaln") if config.cameras else Layer()
        self.transformer = ChunkingTransformer(
            types,
            [layer] * config.layers,
            width=width,
            heads=config.heads,
            max_length=1 + config.horizon,
            context_widths={"pictures": width},
            dropout=config.dropout,
        )

    def normalise_by(self, actions: Tensor, states: Tensor | None = None) -> None:
        """Takes mean and standard deviation from data: actions (..., A), states (..., S)."""
        for name, data in (("action", actions), ("state", states)):
            if data is None:
                continue
            flat = data.flatten(0, -2).float()
            std = flat.std(0)
            getattr(self, f"{name}_mean").copy_(flat.mean(0))
            getattr(self, f"{name}_std").copy_(torch.where(std > FLAT, std, 1.0))

    def loss(
        self,
        observation: DenseObservation,
        actions: Tensor,
        padding: Tensor | None = None,
        seed: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood of the normalised actions, in nats an action: ().

        actions: (B, H, A), of the coming steps. padding: (B, H) bool, True for places beyond the
        episode's end, which count as zero in a mean over all B H places; they must come last.
        seed: (B,) int64, the rows' own seeds, for dropout; None: torch's generator.
        """
        given, contexts = self._read(observation)
        target = (actions - self.action_mean) / self.action_std
        inputs = {**given, "action": target}
        slots = self.transformer(self.layout, inputs, contexts, seed)
        losses = self.transformer.losses(slots, {"action": target}, contexts)["action"]
        return losses.mean() if padding is None else losses.masked_fill(padding, 0).mean()

    @torch.no_grad()
    def act(
        self, observation: DenseObservation, generator: torch.Generator | None = None
    ) -> Tensor:
        """The next actions (B, H, A) in the data's units: drawn by the generator, or the means."""
        given, contexts = self._read(observation)
        generated = self.transformer.generate(self.layout, given, contexts, generator)
        return generated.values["action"] * self.action_std + self.action_mean

    def _read(self, observation: DenseObservation) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the transformer is given, and its contexts."""
        given, contexts = {}, {}
        if self.config.state_dim is not None:
            if observation.state is None or observation.state.shape[1:] != self.state_mean.shape:
                raise UserError(f"dense policy: state must be (B, {self.config.state_dim})")
            state = (observation.state - self.state_mean) / self.state_std
            given["state"] = state[:, None]
        if self.pictures is not None:
            if observation.rgb is None or observation.rgb.shape[1] != self.config.cameras:
                raise UserError(f"dense policy: rgb must be (B, {self.config.cameras}, 3, H, W)")
            contexts["pictures"] = self.pictures(observation.rgb)
        return given, contexts
