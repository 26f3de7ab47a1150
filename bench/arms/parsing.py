"""Reads calls in the embedded model's form, a few tokens at a time, as a step brings them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from bench.process import Link, run_child
from precall_service.domain.json import JsonObject
from precall_service.domain.turn import ToolChoice
from precall_service.engine.base import CallPiece, CallWritten, Finish
from tests.support.prompt_renderers import model_config, token_ids, tokenizer
from tests.support.steps import declared

LINE = 'if name == "value":\n    print("{not} a </tool_call>", [1, 2])  # a line of code\n'
TOKENS = 4
"""Tokens of a chunk."""
TOOL = declared("write", schema='{"type": "object", "properties": {"text": {"type": "string"}}}')


async def main(_config: JsonObject, link: Link) -> None:
    """Reads calls until the bench ends."""
    tokenizer()  # first, since it imports vLLM as precall does
    from vllm.parser.parser_manager import ParserManager

    from precall_service.engine.vllm.call_parsers import reading_calls
    from precall_service.engine.vllm.parsing import SpecialTokens, StepParser
    from precall_service.engine.vllm.plans import StepPlans

    parser_class = ParserManager.get_parser(tool_parser_name="hermes", enable_auto_tools=True)
    assert parser_class is not None
    plans = StepPlans(
        reading_calls(parser_class),
        tokenizer(),
        model_config(),
        structured_calls=True,
    )
    plan = plans.plan((TOOL,), ToolChoice())
    make_parser = plan.make_parser
    assert make_parser is not None

    async def read(fields: JsonObject) -> JsonObject:
        """The processor time of reading one call with so many KiB of arguments."""
        chunks, whole = _call(int(str(fields["kib"])) << 10)
        parser = StepParser(make_parser, plan.request, (1,), SpecialTokens({}))
        characters, written = 0, 0
        began = time.process_time()
        for text, ids in chunks:
            for piece in parser.feed(text, ids):
                characters += len(piece.json_fragment) if isinstance(piece, CallPiece) else 0
                written += isinstance(piece, CallWritten)
        list(parser.end(Finish.STOP, "", ()))
        took_s = time.process_time() - began
        assert (characters, written) == (whole, 1)
        return {"seconds": took_s}

    await read({"kib": 1})
    await link.answer({}, {"read": read})


def _call(size: int) -> tuple[list[tuple[str, Sequence[int]]], int]:
    """The chunks of a call whose arguments have this size, and the size."""
    arguments = json.dumps({"text": (LINE * (size // len(LINE) + 1))[:size]})[: size - 2] + '"}'
    if not _is_json(arguments):  # an escape was cut
        arguments = arguments[:-3] + 'n"}'
    written = f'<tool_call>\n{{"name": "write", "arguments": {arguments}}}\n</tool_call>'
    ids = token_ids(written)
    chunks = [ids[start : start + TOKENS] for start in range(0, len(ids), TOKENS)]
    return [(tokenizer().decode(each), each) for each in chunks], len(arguments)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    run_child(main)
