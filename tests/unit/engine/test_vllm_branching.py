"""A branch has the tokens of a message whose reasoning the model has ended itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from precall_service.engine.vllm.token_prompt import TokenPrompt
from tests.support.appending import answer, call, calling
from tests.support.prompt_renderers import prompt_renderer, token_ids, tokenizer
from tests.support.steps import after, asked, declared

THINKING = {"enable_thinking": True}
QUESTION = replace(
    asked("How is Paris?", declared("get_weather"), system_prompt="Be brief."),
    template_variables=THINKING,
)
THOUGHT = "I need the weather"


def branches(name: str) -> Any:
    model_tokenizer = tokenizer()  # first, since it imports vLLM as precall does
    from vllm.reasoning import ReasoningParserManager

    from precall_service.engine.vllm.branching import Branches
    from precall_service.engine.vllm.reasoning import reasoning_marks

    parser_class: Any = ReasoningParserManager.get_reasoning_parser("qwen3")
    marks = reasoning_marks(parser_class(model_tokenizer), model_tokenizer)
    assert marks is not None
    return Branches(prompt_renderer(name), marks)


async def up_to_the_call(name: str, thought: str) -> tuple[int, ...]:
    """The template's own tokens up to the call of a message with this thought."""
    made = call("get_weather", 1)
    whole = after(QUESTION, calling(made, reasoning=thought), answer(made))
    text = tokenizer().decode((await prompt_renderer(name).render(whole)).token_ids)
    return token_ids(text[: text.rfind("<tool_call>")])


@pytest.mark.parametrize("name", ["embedded", "thinking_chatml", "opens_thought"])
class TestBranches:
    async def test_a_thought_so_far_is_ended_as_the_template_ends_it(self, name: str) -> None:
        prompt = await prompt_renderer(name).render(QUESTION)
        begun = "" if name != "thinking_chatml" else "<think>\n"
        sampled = token_ids(begun + THOUGHT)
        branch = await branches(name).prompt(prompt, sampled, THINKING)
        assert branch == TokenPrompt((*prompt.token_ids, *sampled, *token_ids("\n</think>\n\n")))
        if name != "opens_thought":  # that template writes no thoughts
            assert branch.token_ids == await up_to_the_call(name, THOUGHT)

    async def test_before_the_first_token_the_thought_is_empty(self, name: str) -> None:
        prompt = await prompt_renderer(name).render(QUESTION)
        branch = await branches(name).prompt(prompt, (), THINKING)
        begun = "" if name != "thinking_chatml" else "<think>\n"
        assert branch == TokenPrompt((*prompt.token_ids, *token_ids(f"{begun}\n</think>\n\n")))


async def test_a_message_that_began_without_a_thought_has_no_branch() -> None:
    prompt = await prompt_renderer("thinking_chatml").render(QUESTION)
    made = branches("thinking_chatml")
    assert await made.prompt(prompt, token_ids("Paris is"), THINKING) is None


async def test_a_thought_that_has_ended_has_no_branch() -> None:
    prompt = await prompt_renderer("embedded").render(QUESTION)
    sampled = token_ids("I know.\n</think>\n\nIt rains.<|im_end|>")
    assert await branches("embedded").prompt(prompt, sampled, THINKING) is None


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("embedded", {"enable_thinking": False}),
        ("embedded", {}),
        ("headers", THINKING),
        ("plain", THINKING),
    ],
)
async def test_a_template_that_writes_no_thoughts_has_no_branches(
    name: str, variables: dict[str, Any]
) -> None:
    made = branches(name)
    assert not await made.known(variables)
    assert await made.prompt(TokenPrompt((1, 2)), (), variables) is None
