"""Errors that are the user's to mend: shown as one line each, without a traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """What the user can mend. Each argument is a problem: what, where, and what to do about it."""

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.args)

    @property
    def lines(self) -> Sequence[str]:
        """One line for each problem."""
        return [" ".join(str(problem).split()) for problem in self.args]


class RecipeError(UserError):
    """Every problem of one recipe at once, each as `file:line:column: what; what to do`."""


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
