"""Stands in for RLBench: its names and signatures, over a toy scene of one block on a table."""

__version__ = "1.2.0"
