"""Errors that are the user's to mend: shown as one line each, without a traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user can mend. The message says what, where and what to do, on one line."""

    @property
    def lines(self) -> Sequence[str]:
        """One line for each problem."""
        return [" ".join(str(self).split())]


class RecipeError(UserError):
    """Every problem of one recipe at once, each as `file:line:column: what; what to do`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)

    @property
    def lines(self) -> Sequence[str]:
        return [" ".join(problem.split()) for problem in self.problems]


class ComponentError(UserError):
    """A component that is unknown, ambiguous, or whose plugin is broken."""


class DemonstrationFailed(Exception):
    """A source's expert did not solve the scene: the episode is dropped and counted."""


class NotFinite(ValueError):
    """Numbers that are NaN or infinite where a loss is computed: training has diverged."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word that is closest, if one is close; else nothing."""
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
