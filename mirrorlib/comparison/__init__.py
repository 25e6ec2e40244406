"""Arms compared over seeds: means, paired differences, tables, figures, one page.

from mirrorlib.comparison import compare, gather
comparison = compare(gather(["records/objectives"]).records, baseline="none")
comparison.differences["eval/success_rate"]["infonce"].low
"""

from mirrorlib.comparison.arms import Comparison, PValues, compare
from mirrorlib.comparison.gather import Gathered, gather
from mirrorlib.comparison.statistics import Summary

__all__ = ["Comparison", "Gathered", "PValues", "Summary", "compare", "gather"]
