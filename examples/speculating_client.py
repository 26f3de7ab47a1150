"""A client that speculates itself: Algorithm 4 of arXiv 2512.15834, with versions.

While the model works on its answer, a cheap predictor guesses which call it will make. The client
makes that call at once, and puts the result into the tool cache of the service. When the model
makes the call, the service already has the result, and the turn does not wait for it.

    precall serve                                # in one terminal
    python examples/speculating_client.py        # in another

The tool must be read_only, and `reads` must name the resources that its result depends on. Their
versions are read before the function runs. If one of them is written while it runs, the service
does not store the result, so a guess never becomes a stale answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Literal, get_args

import precall

City = Literal["Berlin", "London", "Paris", "Tokyo"]

LOOKUP_S = 0.1
"""How long the function takes."""


async def get_weather(city: City) -> str:
    """Get the weather in a city."""
    await asyncio.sleep(LOOKUP_S)  # stands for a slow service
    return f"It is sunny in {city}."


def predict(message: str) -> Iterator[City]:
    """Guesses which calls a message will lead to: one for each city that it names."""
    return (city for city in get_args(City) if city in message)


async def run_ahead(client: precall.Client, conversation: precall.Conversation, city: City) -> None:
    """Makes a guessed call, and puts its result where the service looks for it."""
    try:
        observed = await client.cache.resource_versions([f"weather:{city}"])  # before the run
        began_at = time.monotonic()
        result = await get_weather(city)
        await client.cache.put(
            "get_weather",
            conversation.tool_version("get_weather"),
            {"city": city},
            result,
            ttl_s=60,
            observed=observed,
            recompute_cost_s=time.monotonic() - began_at,
            conversation_id=conversation.id,
        )
    except precall.PrecallError as error:
        # Such as CacheConflictError, if the weather was written while the function ran. This does
        # no harm: when the model makes the call, the function runs as usual.
        print(f"the guess for {city} was not stored: {error}", file=sys.stderr)


async def ask(client: precall.Client, question: str) -> precall.Answer:
    """Asks a question, and makes the guessed calls while the model works on the answer."""
    async with client.conversation() as conversation, asyncio.TaskGroup() as group:
        guesses = [
            group.create_task(run_ahead(client, conversation, city)) for city in predict(question)
        ]
        answer = await conversation.ask(question, tool_choice="required", temperature=0.0)
        for guess in guesses:
            guess.cancel()
    return answer


async def main(address: str) -> None:
    """Asks one question, and prints where the results of the calls came from."""
    async with precall.Client(address) as client:
        client.add_tool(get_weather, read_only=True, cache_ttl_s=60, reads=["weather:{city}"])
        answer = await ask(client, "What is the weather in Paris?")
    for call in answer.tool_calls:
        source = call.source.value if call.source else "nowhere"
        print(f"{call.tool_name} {call.arguments_json} -> {call.result_json} (from: {source})")
    print(f"{answer.text.strip()}\n{answer.report.tool_time_exposed_s:.3f} s spent on tools")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50151"))
