"""Proves a model of this machine without starting an engine, for the command line.

Never: vLLM, before it is asked to; the command line imports this module.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from precall_service.engine.base import EngineStartError
from precall_service.engine.findings import Findings
from precall_service.engine.vllm import environment
from precall_service.engine.vllm.config import VllmConfig


def examine(config: VllmConfig) -> Findings:
    """Returns what a start of the engine would find of this model, whose weights are not read.

    Blocks for some ten seconds if vLLM has not been imported yet.

    Raises:
        EngineStartError: the engine cannot start as configured.
    """
    environment.prepare(config)
    environment.import_vllm()
    # Imported here because they import vLLM, which reads the environment when it is imported.
    from vllm.renderers import registry  # noqa: PLC0415

    from precall_service.engine.vllm.parts import model_parts  # noqa: PLC0415
    from precall_service.engine.vllm.proof import prove  # noqa: PLC0415
    from precall_service.engine.vllm.start import created_config  # noqa: PLC0415

    async def proved() -> Findings:
        engine_config = created_config(config)
        renderer = cast("Any", registry).renderer_from_config(engine_config)
        return await prove(model_parts(renderer, engine_config.model_config, config))

    try:
        return asyncio.run(proved())
    except EngineStartError:
        raise
    except Exception as error:  # whatever vLLM and its dependencies raise
        raise EngineStartError(f"vLLM cannot read the model: {error}") from error
