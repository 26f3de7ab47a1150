"""A client that attacks a server until the bench ends: `tests.support.attacks`, all at once."""

from __future__ import annotations

import asyncio
import os
from typing import cast

from bench.process import Link, run_child
from precall_service.domain.json import JsonObject
from tests.support.attacks import ATTACKS

NICENESS = 10
"""The attacker shares a core with the reader of the victims, which must not wait for it."""


async def main(config: JsonObject, link: Link) -> None:
    """Attacks until the bench closes the pipe."""
    os.nice(NICENESS)
    address = str(config["address"])
    async with asyncio.TaskGroup() as group:
        attacks = [
            group.create_task(_attack(name, address))
            for name in cast("list[str]", config["attacks"])
        ]
        await link.answer({}, {})
        for attack in attacks:
            attack.cancel()


async def _attack(name: str, address: str) -> None:
    await ATTACKS[name](address, f"hostile-{name.replace(' ', '-')}")


if __name__ == "__main__":
    run_child(main)
