"""Alignment objectives and projectors for mirrorlib."""
