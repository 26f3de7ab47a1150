"""Asks the hub for a model once, before vLLM does so with many retries and few words."""

from __future__ import annotations

import logging
import os
from typing import Final

from precall_service.engine.model_files import ModelError

TIMEOUT_S: Final = 10.0

log = logging.getLogger(__name__)


def reachable(name: str) -> bool:
    """Whether the hub gives the model out; False: it does not answer, and a copy of it is here.

    Blocks for TIMEOUT_S at most.

    Raises:
        ModelError: the hub does not have it or does not give it to this user, or it does not
            answer and there is no copy.
    """
    if os.environ.get("VLLM_USE_MODELSCOPE"):
        return True  # another hub, which vLLM asks by itself
    # Here, since it comes with vLLM, and takes a moment.
    from huggingface_hub import HfApi, constants, try_to_load_from_cache  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    try:
        HfApi(endpoint=endpoint).model_info(name, timeout=TIMEOUT_S)
    except HFValidationError as error:
        raise ModelError(
            f"--model {name} is neither a folder nor a name on a hub: {error}"
        ) from None
    except GatedRepoError:
        raise ModelError(
            f"--model {name}: {endpoint} gives it only to those who have accepted its licence: do "
            "so there, then log in (`hf auth login`, or HF_TOKEN)"
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"--model {name}: there is no such folder, and {endpoint} has no such model, or not "
            "for you. Check the name; for a private one log in (`hf auth login`, or HF_TOKEN)"
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever its HTTP library raises: no answer
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            raise ModelError(
                f"--model {name}: there is no such folder, and {endpoint} does not answer: "
                f"{reason}. Name a folder, or try again when the hub can be reached"
            ) from None
        log.warning("%s does not answer (%s): starting from the copy on this machine", name, reason)
        return False
    return True
