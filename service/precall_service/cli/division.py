"""Divides the machine between the engine of the turns and that of the draft model.

Owns: who gets which CPU cores or how much of a GPU's memory, and the check that both fit.
Never: starts anything. What is not on this machine yet cannot be checked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from precall_service.cli.errors import CommandError
from precall_service.cli.machine import gpu_memory_bytes, memory_bytes
from precall_service.domain.json import JsonValue
from precall_service.engine.install import installed_engine
from precall_service.engine.vllm.config import CPU_KV_CACHE_BYTES, VllmConfig
from precall_service.settings.speculation import DraftModelSection

log = logging.getLogger(__name__)

_GIB: Final = 1 << 30
_PROCESSES_BYTES: Final = 2 * _GIB
"""What the processes of one engine take on a CPU besides weights and KV cache."""
_GPU_BYTES: Final = _GIB
"""What an engine takes of a GPU besides weights and KV cache."""
_GPU_FRACTION_MAX: Final = 0.92
"""The fraction of a GPU's memory that engines may share; drivers and libraries need the rest."""
_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.gguf")
_BINDING: Final = "VLLM_CPU_OMP_THREADS_BIND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is to divide. Without a GPU, `gpu_memory` is None: its total and free bytes."""

    cores: tuple[int, ...]
    memory_bytes: int
    gpu_memory: tuple[int, int] | None
    binding: str = ""
    """What the operator has set for vLLM's own binding of threads to cores."""


def this_machine() -> Machine:
    """Returns what this process may use of the machine that it runs on."""
    engine = installed_engine()
    return Machine(
        cores=tuple(sorted(os.sched_getaffinity(0))),
        memory_bytes=memory_bytes(),
        gpu_memory=gpu_memory_bytes() if engine is not None and engine.device == "gpu" else None,
        binding=os.environ.get(_BINDING, ""),
    )


def divided(
    main: VllmConfig, draft: VllmConfig, section: DraftModelSection, machine: Machine
) -> tuple[VllmConfig, VllmConfig]:
    """Returns the configurations of both engines, each with its part of the machine.

    Raises:
        CommandError: both do not fit; the message has the numbers.
    """
    if machine.gpu_memory is not None:
        return _gpu_divided(main, draft, section, *machine.gpu_memory)
    _check_memory(main, draft, machine.memory_bytes)
    if machine.binding not in {"", "auto"}:
        raise CommandError(
            f"{_BINDING} is {machine.binding!r}, which binds both engines to the same cores: unset "
            "it, and give the draft model cores with speculation.draft_model.cores"
        )
    return _cores_divided(main, draft, section, machine.cores)


def _cores_divided(
    main: VllmConfig, draft: VllmConfig, section: DraftModelSection, cores: tuple[int, ...]
) -> tuple[VllmConfig, VllmConfig]:
    count = section.cores or max(1, len(cores) // 4)
    if count < len(cores):
        own = frozenset(cores[-count:])
        return replace(main, cores=frozenset(cores) - own), replace(draft, cores=own)
    if section.cores is None:
        log.warning("there is one CPU core, which the draft model shares with the engine")
        return main, draft
    raise CommandError(
        f"speculation.draft_model.cores is {count}, and this process may use {len(cores)}: leave "
        "at least one core to the engine of the turns"
    )


def _check_memory(main: VllmConfig, draft: VllmConfig, available: int) -> None:
    weights = [_weights_bytes(main), _weights_bytes(draft)]
    caches = [_kv_cache_bytes(each) or CPU_KV_CACHE_BYTES for each in (main, draft)]
    needed = sum(weights) + sum(caches) + 2 * _PROCESSES_BYTES
    if needed > available:
        raise CommandError(
            f"the engine and that of the draft model do not fit into memory: they need "
            f"{needed / _GIB:.1f} GiB (weights {_both(weights)}, KV cache {_both(caches)}, "
            f"processes {2 * _PROCESSES_BYTES / _GIB:.1f} GiB), and {available / _GIB:.1f} GiB are "
            "free. Choose a smaller draft model, or less KV cache with engine.kv_cache_bytes and "
            "speculation.draft_model.kv_cache_bytes"
        )


def _gpu_divided(
    main: VllmConfig, draft: VllmConfig, section: DraftModelSection, total: int, free: int
) -> tuple[VllmConfig, VllmConfig]:
    part = section.gpu_memory_fraction
    set_by_operator = main.settings.get("gpu_memory_utilization")
    rest = (
        _GPU_FRACTION_MAX - part
        if not isinstance(set_by_operator, int | float)
        else float(set_by_operator)
    )
    wanted = (rest + part) * total
    if rest <= 0 or rest + part > 1 or wanted > free:
        raise CommandError(
            f"the engine and that of the draft model do not fit into the memory of the GPU: "
            f"fractions of {rest:.2f} and {part:.2f} are {wanted / _GIB:.1f} GiB, and "
            f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB are free. Set smaller ones with "
            "engine.vllm.gpu_memory_utilization and speculation.draft_model.gpu_memory_fraction"
        )
    for config, fraction, what in ((main, rest, "the model"), (draft, part, "the draft model")):
        weights, cache = _weights_bytes(config), _kv_cache_bytes(config)
        if weights + cache + _GPU_BYTES > fraction * total:
            raise CommandError(
                f"{what} does not fit into its part of the GPU's memory: weights of "
                f"{weights / _GIB:.1f} GiB, a KV cache of {cache / _GIB:.1f} GiB and about "
                f"{_GPU_BYTES / _GIB:.0f} GiB more, of {fraction * total / _GIB:.1f} GiB. Change "
                "speculation.draft_model.gpu_memory_fraction"
            )
    return _with_memory(main, rest), _with_memory(draft, part)


def _with_memory(config: VllmConfig, fraction: float) -> VllmConfig:
    settings: Mapping[str, JsonValue] = {**config.settings, "gpu_memory_utilization": fraction}
    return replace(config, settings=settings)


def _weights_bytes(config: VllmConfig) -> int:
    """Returns the size of a model's weights on a device; 0 if it is not on this machine."""
    if not config.local:
        return 0
    files = (tuple(Path(config.model).glob(pattern)) for pattern in _WEIGHTS)
    stored = sum(file.stat().st_size for file in next(filter(None, files), ()))
    parts = config.settings.get("tensor_parallel_size", 1)
    return stored // parts if isinstance(parts, int) and parts > 1 else stored


def _kv_cache_bytes(config: VllmConfig) -> int:
    """Returns the size of the KV cache that the operator has set; 0 if there is none."""
    given = config.settings.get("kv_cache_memory_bytes", config.kv_cache_bytes)
    return given if isinstance(given, int) else 0


def _both(sizes: list[int]) -> str:
    return " and ".join(f"{size / _GIB:.1f}" for size in sizes) + " GiB"
