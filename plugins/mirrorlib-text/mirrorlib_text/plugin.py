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
        ),
        Component(
            "clip",
            build="mirrorlib_text.clip:build",
            config="mirrorlib_text.config:ClipConfig",
            summary="CLIP's text transformer, frozen with published weights, or from scratch",
        ),
        Component(
            "sentence",
            build="mirrorlib_text.sentence:build",
            config="mirrorlib_text.config:SentenceConfig",
            summary="a frozen sentence encoder of transformers', all-MiniLM-L6-v2 by default",
        ),
    ]
