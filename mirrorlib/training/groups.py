"""Parameters that a recipe treats apart, by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from mirrorlib.errors import UserError
from mirrorlib.sections import GroupSection
from mirrorlib.training.joint import Joint


def group_of(name: str, groups: Sequence[GroupSection]) -> GroupSection | None:
    """The last group whose pattern matches a parameter's name."""
    found = [group for group in groups if fnmatchcase(name, group.match)]
    return found[-1] if found else None


def freeze(joint: Joint, groups: Sequence[GroupSection]) -> None:
    """Sets requires_grad of what is frozen to False. Modules of which nothing learns any more stay
    in evaluation mode: neither dropout nor statistics of normalisation move them.

    Raises UserError where a pattern matches no parameter, or where nothing is left to learn.
    """
    parameters = dict(joint.named_parameters())
    for number, group in enumerate(groups):
        if not any(fnmatchcase(name, group.match) for name in parameters):
            raise UserError(
                f"train.groups.{number}.match: no parameter is called {group.match!r}; "
                + _example(group.match, list(parameters))
            )
    frozen = set()
    for name, parameter in parameters.items():
        apart = group_of(name, groups)
        if apart is not None and apart.frozen:
            parameter.requires_grad_(False)
            frozen.add(name)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError("train.groups: everything is frozen, and nothing is left to learn")
    joint.still = tuple(
        module
        for prefix, module in joint.named_modules()
        if not any(parameter.requires_grad for parameter in module.parameters())
        and any(f"{prefix}.{name}" in frozen for name, _ in module.named_parameters())
    )


def _example(pattern: str, names: Sequence[str]) -> str:
    close = get_close_matches(pattern, names, 1, 0.4) or [names[0]]
    return f"there is {close[0]}, for instance"
