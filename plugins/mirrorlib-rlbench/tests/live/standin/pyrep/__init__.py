"""Stands in for PyRep: its names and signatures, over a toy."""

__version__ = "4.1.0.3"
