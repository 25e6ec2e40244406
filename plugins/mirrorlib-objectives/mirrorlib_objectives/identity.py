"""No projector: representations are compared as they are."""

from __future__ import annotations

from torch import Tensor

from mirrorlib.interfaces import Projector
from mirrorlib_objectives.config import IdentityConfig


class IdentityProjector(Projector):
    """z = x, without parameters. x: (B, input_dim), returned as it is; output_dim = input_dim.

    Objectives ask for one width, so both encoders must have the same.
    """

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = input_dim

    def forward(self, representation: Tensor) -> Tensor:
        return representation


def build_identity(config: IdentityConfig) -> IdentityProjector:
    return IdentityProjector(config.require_input_dim("identity"))
