"""Keyframe policy for mirrorlib: a multi-view transformer and a chunking causal transformer."""
