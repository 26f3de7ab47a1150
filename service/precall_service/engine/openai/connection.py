"""The connection to a server: bounded in time, in size, and in the number of its uses at once.

Owns: the HTTP client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import openai

from precall_service.engine.base import EngineNotReachedError, EngineStartError
from precall_service.engine.openai.config import OpenAiConfig
from precall_service.engine.openai.errors import SERVER_ERRORS, cause, said

ANSWER_BYTES_MAX: Final = 64 << 20
"""The most bytes of one answer. A long one has a few hundred bytes a token."""
PROBE_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server has, as far as the server says."""

    name: str
    context_tokens_max: int | None
    on_vllm: bool
    """Whether the server is vLLM's, which parts its prefix cache by a salt."""


async def connected(config: OpenAiConfig) -> tuple[openai.AsyncOpenAI, ServedModel]:
    """Returns a client of the server, and the model that is to be used.

    Raises:
        EngineNotReachedError: the server does not answer.
        EngineStartError: it refuses the key, or has no such model.
    """
    client = _client(config)
    try:
        return client, await _served_model(client, config)
    except BaseException:
        await client.close()
        raise


def _client(config: OpenAiConfig) -> openai.AsyncOpenAI:
    timeout = httpx2.Timeout(config.answer_timeout_s, connect=config.connect_timeout_s)
    limits = httpx2.Limits(max_connections=config.turns_max + 1)
    http = httpx2.AsyncClient(
        transport=_Bounded(httpx2.AsyncHTTPTransport(limits=limits)), timeout=timeout
    )
    return openai.AsyncOpenAI(
        base_url=config.url,
        api_key=config.api_key,
        max_retries=config.tries_max - 1,
        http_client=http,
        default_headers={"Accept-Encoding": "identity"},  # the bound counts what is sent
    )


async def _served_model(client: openai.AsyncOpenAI, config: OpenAiConfig) -> ServedModel:
    try:
        listed = [each async for each in client.models.list(timeout=PROBE_TIMEOUT_S)]
    except openai.NotFoundError:
        listed = None  # a few servers list no models
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise EngineStartError(
            f"the server at {config.url} refuses the API key: {said(error)}. Set it with "
            f"{config.names.api_key}"
        ) from error
    except SERVER_ERRORS as error:
        raise EngineNotReachedError(
            f"the server at {config.url} lists no models: {cause(error)}. Check "
            f"{config.names.url}, which ends with /v1 for most servers, and that the server runs"
        ) from error
    names = [] if listed is None else [each.id for each in listed]
    if config.model is None and len(names) != 1:
        raise EngineStartError(f"name a model with {config.names.model}: {_offered(names, config)}")
    if config.model is not None and names and config.model not in names:
        raise EngineStartError(f"there is no model {config.model}: {_offered(names, config)}")
    name = config.model or names[0]
    found = next((each for each in listed or () if each.id == name), None)
    length = None if found is None else (found.model_extra or {}).get("max_model_len")
    return ServedModel(
        name=name,
        context_tokens_max=length if isinstance(length, int) and length > 0 else None,
        on_vllm=found is not None and found.owned_by == "vllm",
    )


def _offered(names: list[str], config: OpenAiConfig) -> str:
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return (
        f"the server at {config.url} has {shown}"
        if names
        else (f"the server at {config.url} does not list its models")
    )


class _Bounded(httpx2.AsyncBaseTransport):
    """Ends an answer that is too long. The client itself would keep a line of any length."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        stream: Any = response.stream
        response.stream = _BoundedStream(stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for part in self._inner:
            read += len(part)
            if read > ANSWER_BYTES_MAX:
                raise httpx2.ReadError(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()
