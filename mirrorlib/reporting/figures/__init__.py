"""Pictures of an evaluation, one family a module, all in one style."""

from mirrorlib.reporting.figures.bars import success_bars
from mirrorlib.reporting.figures.contact_sheets import contact_sheet
from mirrorlib.reporting.figures.maps import pca, tsne
from mirrorlib.reporting.figures.matrices import confusion_matrix, similarity_matrix
from mirrorlib.reporting.figures.retrieval import retrieval_grid
from mirrorlib.reporting.figures.run import Drawn, draw_command, draw_run
from mirrorlib.reporting.figures.style import save

__all__ = [
    "Drawn",
    "confusion_matrix",
    "contact_sheet",
    "draw_command",
    "draw_run",
    "pca",
    "retrieval_grid",
    "save",
    "similarity_matrix",
    "success_bars",
    "tsne",
]
