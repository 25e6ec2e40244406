"""`python -m mirrorlib.probe RECIPE [a.b=c ...]`, alone or under `accelerate launch`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mirrorlib.cli import add_recipe_arguments, guarded
from mirrorlib.probing.settings import load_probe


def main(argv: Sequence[str] | None = None) -> int:
    """Probe two frozen models and return the exit code, see `mirrorlib.cli.guarded`."""

    def probe() -> None:
        parser = argparse.ArgumentParser(
            "python -m mirrorlib.probe",
            description="Whether two frozen models align: linear maps, read on held-out scenes.",
        )
        add_recipe_arguments(parser)
        arguments = parser.parse_intermixed_args(argv)
        settings = load_probe(Path(arguments.recipe), arguments.overrides)
        from mirrorlib.probing import run  # torch, once the settings are known to be right

        run.probe(settings)

    return guarded(probe)


if __name__ == "__main__":
    sys.exit(main())
