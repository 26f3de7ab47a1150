"""Turns texts into tokens, unless they are far too long for the context window.

The tokens of a megabyte take seconds, and become integers while the GIL is kept. So where a text
may be far too long, its tokens are first counted in slices, up to where that is clear.

Concurrency: one event loop. vLLM's renderer tokenises in threads of its own, by default in one.
"""

from __future__ import annotations

from typing import Any, Final, cast

from vllm.renderers import TokenizeParams
from vllm.renderers.base import BaseRenderer

from precall_service.engine.prompt_length import PromptTooLongError

_PARAMS: Final = TokenizeParams(
    max_total_tokens=None,  # the turn checks the length of a prompt
    add_special_tokens=False,  # the template writes them, and a delta has none
)
_SLICE: Final = 64 << 10
"""The characters whose tokens are counted at once."""
_DENSE: Final = 4
"""The characters for each token of the context window up to which tokens are not counted first."""
_FAR: Final = 2
"""The contexts that a text must fill to be far too long. A slice may cut a word in two, and so have
a few tokens more than the same characters have in the whole, but not twice as many."""


class Tokenizing:
    """Tokenises with vLLM's renderer for one model."""

    def __init__(self, renderer: BaseRenderer[Any]) -> None:
        self._renderer = renderer

    async def token_ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a text of any length.

        On cancel: the text is tokenised to its end.
        """
        return tuple(await self._tokens(text))

    async def fitting(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, unless it is far too long.

        On cancel: the text, or the slice of it, is tokenised to its end.

        Raises:
            PromptTooLongError: it is far too long for the context window.
        """
        limit = self._renderer.model_config.max_model_len
        if len(text) > max(_SLICE, _DENSE * limit):
            await self._check_length(text, limit)
        return await self.token_ids(text)

    async def _check_length(self, text: str, limit: int) -> None:
        counted = 0
        for start in range(0, len(text), _SLICE):
            counted += len(await self._tokens(text[start : start + _SLICE]))
            if counted > _FAR * limit:
                raise PromptTooLongError(counted // _FAR, limit=limit, at_least=True)

    async def _tokens(self, text: str) -> list[int]:
        (tokenised,) = await self._renderer.tokenize_prompts_async(
            [cast(Any, {"prompt": text})], _PARAMS
        )
        return cast(dict[str, Any], tokenised)["prompt_token_ids"]
