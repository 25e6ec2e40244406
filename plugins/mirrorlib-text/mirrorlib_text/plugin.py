"""What this distribution offers to mirrorlib."""

from collections.abc import Sequence

from mirrorlib.hookspecs import Component, hookimpl


@hookimpl
def mirrorlib_texts() -> Sequence[Component]:
    return [
        Component(
            "words",
            build="mirrorlib_text.words:Words",
            config="mirrorlib_text.config:WordsConfig",
            summary="hashed words and a small transformer, from scratch, no vocabulary file",
        )
    ]
