"""Says what a failure of the server means for a turn."""

from __future__ import annotations

import math
from typing import Final, cast

import httpx2
import openai

from precall_service.domain.errors import Reason, ServiceError
from precall_service.engine.base import GenerationFailedError, GenerationRefusedError

_SHOWN_CHARS_MAX: Final = 500
"""How much of a server's own words is passed on."""
_RETRY_S: Final = 1.0
_RETRY_MAX_S: Final = 600.0

SERVER_ERRORS: Final = (openai.OpenAIError, httpx2.HTTPError, ValueError)
"""What the OpenAI client raises for a server that refuses, fails or answers nonsense. A ValueError
comes from text that is no JSON."""


class ServerBusyError(ServiceError):
    """The server takes nothing more for now."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(Reason.OVERLOADED, message, retry_after_s=retry_after_s)


def meaning(error: Exception) -> ServiceError:
    """Returns the error of a turn whose step failed like this."""
    match error:
        case openai.RateLimitError():
            wait_s = _retry_after_s(error)
            return ServerBusyError(
                f"the model's server takes no more for now ({said(error)}): try again in "
                f"{wait_s:g} s",
                wait_s,
            )
        case openai.BadRequestError() | openai.UnprocessableEntityError():
            return GenerationRefusedError(f"the model's server refuses this step: {said(error)}")
        case openai.AuthenticationError() | openai.PermissionDeniedError() | openai.NotFoundError():
            return GenerationFailedError(
                f"the model's server does not let this service use the model: {said(error)}"
            )
        case openai.APITimeoutError() | httpx2.TimeoutException():
            what = "did not answer in time"
        case openai.APIConnectionError() | httpx2.TransportError():
            what = f"cannot be reached, or broke the connection ({cause(error)})"
        case openai.APIStatusError():
            what = f"failed with status {error.status_code} ({said(error)})"
        case _:
            what = f"answered what is no answer ({said(error)})"
    return GenerationFailedError(
        f"the model's server {what}: send the turn again, with a new turn id"
    )


def said(error: Exception) -> str:
    """The server's own words, in one line and not too many."""
    body = error.body if isinstance(error, openai.APIStatusError) else None
    return _line(_message(body) or body or error) or type(error).__name__


def _message(body: object) -> object:
    return cast("dict[str, object]", body).get("message") if isinstance(body, dict) else None


def cause(error: Exception) -> str:
    """What lies under an error of the connection, in one line and not too many words."""
    under = error.__cause__ or error
    return _line(under) or type(under).__name__


def _line(words: object) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."


def _retry_after_s(error: openai.RateLimitError) -> float:
    try:
        wait_s = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return _RETRY_S
    return _RETRY_S if math.isnan(wait_s) else min(max(wait_s, 0.0), _RETRY_MAX_S)
