"""Asks the hub for a model once, because vLLM retries for minutes and explains little."""

from __future__ import annotations

import logging
import os
from typing import Final

from precall_service.engine.model_files import ModelError

TIMEOUT_S: Final = 10.0

log = logging.getLogger(__name__)


def reachable(name: str) -> bool:
    """Returns True if the hub serves the model, False if only a local copy can be had.

    Blocks for at most TIMEOUT_S.

    Raises:
        ModelError: the hub does not have the model or does not serve it to this user, or the hub
            does not answer and there is no local copy.
    """
    if os.environ.get("VLLM_USE_MODELSCOPE"):
        return True  # another hub, which vLLM asks itself
    # Imported here because it is installed with vLLM, and is slow to import.
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
            f"--model {name}: {endpoint} serves it only to users who have accepted its licence: do "
            "so there, then log in (`hf auth login`, or HF_TOKEN)"
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"--model {name}: there is no such folder, and {endpoint} has no such model, or "
            "hides it from you. Check the name; for a private model log in (`hf auth login`, or "
            "HF_TOKEN)"
        ) from None
    except Exception as error:  # noqa: BLE001 - any error of its HTTP library means no answer
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            raise ModelError(
                f"--model {name}: there is no such folder, and {endpoint} does not answer: "
                f"{reason}. Name a folder, or try again when the hub can be reached"
            ) from None
        log.warning("%s does not answer (%s): starting from the copy on this machine", name, reason)
        return False
    return True
