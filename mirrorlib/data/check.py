"""Every broken episode of a recipe's source, or of a folder, at once: `mirrorlib data check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mirrorlib.data.cache import SPLITS, Cache
from mirrorlib.data.recording import in_processes
from mirrorlib.errors import ComponentError, DemonstrationFailed, UserError
from mirrorlib.interfaces import EpisodeKey, Source
from mirrorlib.processes import own_cores
from mirrorlib.recipe import load_recipe
from mirrorlib.registry import Offer, build_section, installed
from mirrorlib.yamlfile import plain_document


@dataclass(frozen=True)
class Target:
    """What is checked, and by how many processes. cache: of a recipe."""

    source: Source
    workers: int
    cache: Cache | None = None


def check(target: str, overrides: Sequence[str] = (), source: str | None = None) -> None:
    """Reads every episode whole and verifies what a recipe's cache holds; prints a line for each
    that is broken, then how many were looked at.

    target: a recipe, or a folder of demonstrations. overrides: `a.b=c`, of the recipe or the
    folder's source. source: its name, where several are installed that read a folder. Raises
    UserError where anything is broken, and where nothing could be checked.
    """
    opened = _folder(target, overrides, source) if Path(target).is_dir() else None
    opened = opened or _recipe(target, overrides)
    keys, problems = _keys(opened.source)
    looked = _read(opened, keys)
    broken = [*problems, *(line for line in looked.values() if line)]
    read = sum(line is not None for line in looked.values())
    cache = None if problems else opened.cache  # which needs every split
    damaged, changed = cache.faults() if cache else ({}, [])
    for line in (*broken, *damaged.values()):
        print(line)
    print(f"{read} of {len(keys)} episodes are read from files; {len(broken)} problems")
    if cache:
        print(
            f"{cache.folder}: {len(damaged)} damaged; {len(changed)} to be read anew, as "
            "the source's files have changed"
        )
    elif not read and not broken:
        raise UserError(f"{target}: no episode was found that is read from files")
    if broken or damaged:
        raise UserError(
            f"{target}: {len(broken)} problems with the source, {len(damaged)} damaged recordings: "
            "mend each as its line says; or data.broken=skip leaves them out, data.broken=rebuild "
            "records damaged recordings anew"
        )


def _recipe(target: str, overrides: Sequence[str]) -> Target:
    from mirrorlib.assembly import executor_view, open_cache, recording_workers

    recipe = load_recipe(target, overrides)
    source: Source = build_section("source", recipe.source)
    cache = open_cache(recipe, source, executor_view(recipe, source))
    return Target(source, recording_workers(recipe), cache)


def _folder(target: str, overrides: Sequence[str], name: str | None) -> Target:
    document = plain_document({"root": target}, "source")
    for number, override in enumerate(overrides):
        document.override(number, override)
    document.raise_problems()
    offers = {str(offer): offer for offer in installed().offers("source") if _reads_folder(offer)}
    if name is None and len(offers) != 1:
        told = ", ".join(offers) or "none is installed"
        raise UserError(f"{target}: which source reads it? Say --source NAME ({told})")
    name = name or next(iter(offers.values())).component.name
    return Target(installed().build("source", name, **document.value), own_cores())


def _reads_folder(offer: Offer) -> bool:
    try:
        return "root" in offer.config_model().model_fields
    except ComponentError:
        return False


def _keys(source: Source) -> tuple[list[EpisodeKey], list[str]]:
    """The episodes of all splits, and a line for each split that cannot be listed. Raises UserError
    where none can."""
    keys, problems = list[EpisodeKey](), list[str]()
    for split in SPLITS:
        try:
            keys += source.keys(split)
        except UserError as error:
            problems += [" ".join(error.lines)]
    if len(problems) == len(SPLITS):
        raise UserError(problems[0])
    return keys, list(dict.fromkeys(problems))


def _read(target: Target, keys: Sequence[EpisodeKey]) -> dict[EpisodeKey, str | None]:
    """What `read_whole` says of each."""
    found: dict[EpisodeKey, str | None] = dict.fromkeys(keys)
    jobs = [(key,) for key in keys if target.source.stamp(key)]
    try:
        with closing(in_processes(read_whole, jobs, target.workers, target.source)) as done:
            for (key,), future in tqdm(done, "reading", len(jobs), unit="ep"):
                found[key] = future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"a reading process died ({error}); if memory ran out, check a recipe with fewer "
            "data.workers"
        ) from error
    return found


def read_whole(source: Source, key: EpisodeKey) -> str:
    """What is wrong with an episode of which every picture is decoded; "" if nothing."""
    try:
        episode = source.episode(key)
    except DemonstrationFailed:
        return ""
    except UserError as error:
        return " ".join(error.lines)
    cameras = (*episode.rgb.values(), *episode.depth.values())
    problems = [line for frames in cameras for line in _undecodable(frames)]
    if not problems:
        return ""
    more = f" (and {len(problems) - 1} more pictures of the episode)" if problems[1:] else ""
    return problems[0] + more


def _undecodable(frames: Any) -> Iterator[str]:
    """A line for each of a camera's frames that cannot be decoded. One at a time is in memory."""
    for row in range(len(frames)):
        try:
            frames[row]
        except UserError as error:
            yield " ".join(error.lines)
