"""CLIP's byte-pair tokenizer, of open_clip_torch.

Its one file is loaded without the package around it, which would import torchvision and timm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from torch import Tensor

from mirrorlib.errors import UserError

VOCABULARY = 49408


def tokenize(texts: Sequence[str], context_length: int) -> Tensor:
    """K texts of any characters. Returns (K, context_length) int64: start (49406), tokens, end
    (49407), then 0; a longer text is cut before its end. Raises UserError where open_clip_torch
    is missing."""
    return _tokenizer()(list(texts), context_length=context_length)


def check() -> str | None:
    """None where the tokenizer loads, else one line that says what mends it."""
    try:
        _tokenizer()
    except UserError as error:
        return str(error)
    return None


@cache
def _tokenizer() -> Callable[..., Tensor]:
    try:
        package = find_spec("open_clip")
        if package is None or package.origin is None:
            raise ImportError("open_clip is not installed")
        spec = spec_from_file_location(
            "mirrorlib._open_clip_tokenizer", Path(package.origin).parent / "tokenizer.py"
        )
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        tokenizer: Callable[..., Tensor] = module.SimpleTokenizer()
    except Exception as error:
        raise UserError(
            f"CLIP's tokenizer does not load ({error}); run `pip install open_clip_torch`"
        ) from error
    return tokenizer
