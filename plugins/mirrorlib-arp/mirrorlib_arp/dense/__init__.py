"""Dense control: one chunk of future actions from what is observed now."""

from mirrorlib_arp.dense.config import DenseConfig
from mirrorlib_arp.dense.policy import DenseObservation, DensePolicy

__all__ = ["DenseConfig", "DenseObservation", "DensePolicy"]
