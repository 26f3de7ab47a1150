"""What the history predictor learns from calls, and what it proposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from precall_service.domain.json import JsonObject, parse_object
from precall_service.speculation.base import PastCall, Proposal, Situation
from precall_service.speculation.predictors.history.model import (
    KNOWN_LEAVES_MAX,
    PROPOSALS_MAX,
    TOOLS_MAX,
    WEIGHTS_MAX,
    TenantModel,
)
from tests.support.predictors import call, named, situation, tool

GET = tool("get", path="string")
NOTE = tool("note", text="string")
COUNT = tool("count", n="integer", unit="string")
TAG = tool("tag", tags="array")
MAKE = tool("make", what="object")
TOOLS = named(GET, NOTE, COUNT, TAG, MAKE)


def at(text: str = "", *calls: PastCall, earlier: tuple[PastCall, ...] = ()) -> Situation:
    return situation(text, *calls, tools=TOOLS, earlier=earlier)


class Taught:
    """A model, and short ways to teach and ask it."""

    def __init__(self, half_life_calls: int = 1000) -> None:
        self.model = TenantModel(half_life_calls)

    def teach(self, where: Situation, *calls: PastCall) -> None:
        self.model.learn(self.model.observe(where, calls))

    def ask(self, where: Situation) -> list[Proposal]:
        return self.model.propose(where)

    def best(self, where: Situation) -> tuple[str, JsonObject] | None:
        found = self.ask(where)
        return (found[0].tool_name, parse_object(found[0].arguments_json)) if found else None

    def confidence(self, where: Situation, of: PastCall) -> float:
        return sum(
            each.confidence
            for each in self.ask(where)
            if (each.tool_name, parse_object(each.arguments_json)) == (of.tool_name, of.arguments)
        )


@pytest.fixture
def taught() -> Taught:
    return Taught()


class TestTools:
    def test_nothing_is_proposed_before_anything_was_learned(self, taught: Taught) -> None:
        assert taught.ask(at("Get '/a'.")) == []

    def test_a_tool_follows_the_one_before_it(self, taught: Taught) -> None:
        got, noted = call("get", "x", path="/a"), call("note", "ok", text="x")
        for _ in range(5):
            taught.teach(at("go"), got)
            taught.teach(at("go", got), noted)
            taught.teach(at("go", got, noted), call("count", 1, n=1, unit="m"))
        assert taught.best(at("go")) == ("get", {"path": "/a"})
        assert taught.best(at("go", got)) == ("note", {"text": "x"})
        assert taught.best(at("go", got, noted)) == ("count", {"n": 1, "unit": "m"})

    def test_words_of_the_text_tell_the_tool(self, taught: Taught) -> None:
        for number in range(6):
            taught.teach(at(f"Read '/{number}' to me"), call("get", "x", path=f"/{number}"))
            taught.teach(at(f"Write down '/{number}'"), call("note", "x", text=f"/{number}"))
        assert taught.best(at("Please read '/new'")) == ("get", {"path": "/new"})
        assert taught.best(at("Please write '/new'")) == ("note", {"text": "/new"})

    def test_the_words_of_a_tool_tell_it(self) -> None:
        """What was learned of words in general helps a tool that was never called for them."""
        tools = {
            name: tool(f"{name}_order", f"Lets you {name} an order.", id="string")
            for name in ("cancel", "ship", "track", "refund")
        }
        declared = named(*tools.values())
        taught = Taught()
        for name in ("cancel", "ship", "track") * 4:
            where = situation(f"{name} order 'a1'", tools=declared)
            taught.teach(where, call(f"{name}_order", id="a1"))
        taught.teach(situation("do it", tools=declared), call("refund_order", id="a1"))
        asked = situation("refund order 'a1'", tools=declared)
        assert taught.best(asked) == ("refund_order", {"id": "a1"})

    def test_a_tool_that_the_turn_does_not_have_is_not_proposed(self, taught: Taught) -> None:
        for _ in range(4):
            taught.teach(at("go"), call("get", path="/a"))
        gone = replace(at("go"), tools=named(NOTE))
        assert taught.ask(gone) == []

    def test_a_turn_that_ends_makes_calls_less_probable(self) -> None:
        calls = call("get", path="/a")
        sure, ended = Taught(), Taught()
        for _ in range(20):
            for each in (sure, ended):
                each.teach(at("go"), calls)
            ended.teach(at("go", calls))
        assert ended.confidence(at("go", calls), calls) < 0.1
        assert sure.confidence(at("go"), calls) > 0.8

    def test_every_call_of_a_step_may_be_proposed(self, taught: Taught) -> None:
        both = (call("get", path="/a"), call("get", path="/b"))
        for _ in range(10):
            taught.teach(at("go"), *both)
        found = {str(parse_object(each.arguments_json)["path"]) for each in taught.ask(at("go"))}
        assert found == {"/a", "/b"}

    def test_at_most_so_many_calls_are_proposed(self, taught: Taught) -> None:
        for number in range(40):
            taught.teach(at("go"), call("get", path=f"/{number % 10}"))
        assert len(taught.ask(at("go"))) == PROPOSALS_MAX


class TestArguments:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            pytest.param("Look at '{}', and then at 'z'.", "a b", id="quoted"),
            pytest.param("The folder is {} today", "/a/b.txt", id="path"),
            pytest.param("Write to {} or others", "ann@example.org", id="email"),
            pytest.param("From {} on", "https://a.example/b?c=1", id="url"),
            pytest.param("Visit {} with me", "New York", id="name"),
            pytest.param("for the code {} only", "ABC", id="capitals"),
            pytest.param("the word after it is {} again", "blue", id="word"),
        ],
    )
    def test_a_value_comes_from_the_text(self, taught: Taught, text: str, value: str) -> None:
        for number in range(6):
            old = f"{value[:-1]}{'xyzuvw'[number]}"
            taught.teach(at(text.format(old)), call("get", path=old))
        assert taught.best(at(text.format(value))) == ("get", {"path": value})

    def test_a_number_comes_from_the_text(self, taught: Taught) -> None:
        for number in (3, 1400, 17, 5):
            taught.teach(at(f"take {number:,} of it"), call("count", n=number, unit="m"))
        assert taught.best(at("take 2,500 of it")) == ("count", {"n": 2500, "unit": "m"})

    def test_a_value_of_the_wrong_type_is_not_proposed(self, taught: Taught) -> None:
        for number in range(5):
            taught.teach(at(f"priority is {number}"), call("count", n=number, unit="m"))
        for each in taught.ask(at("priority is high")):
            assert isinstance(parse_object(each.arguments_json)["n"], int)

    @pytest.mark.parametrize(
        ("result", "value"),
        [
            pytest.param('"NEW"', "NEW", id="whole"),
            pytest.param('{"id": "NEW", "z": 1}', "NEW", id="name"),
            pytest.param('{"a": {"b": [0, {"c": "NEW"}]}}', "NEW", id="nested"),
            pytest.param('[{"id": "NEW"}, {"id": "z"}]', "NEW", id="first item"),
            pytest.param('["z", "y", "NEW"]', "NEW", id="last item"),
            pytest.param('{"file": "/docs/NEW.txt"}', "/docs/NEW.txt", id="as it is"),
            pytest.param('{"file": "/docs/NEW"}', "NEW", id="last part"),
            pytest.param('{"file": "/NEW/a.txt"}', "/NEW", id="folder"),
            pytest.param('{"file": "/NEW/a/b.txt"}', "NEW", id="first part"),
            pytest.param('{"file": "NEW.txt"}', "NEW", id="without extension"),
            pytest.param('{"file": "a.NEW"}', "NEW", id="extension"),
            pytest.param('{"tag": "NEW"}', "#NEW", id="tagged"),
            pytest.param('{"user": "NEW"}', "@NEW", id="mentioned"),
            pytest.param('{"tag": " NEW. "}', "NEW", id="stripped"),
            pytest.param('{"title": "Big NEW"}', "big_new", id="underscores"),
            pytest.param('{"end": "it is NEW"}', "it is NEW.", id="final dot"),
        ],
    )
    def test_a_value_comes_from_a_result(self, taught: Taught, result: str, value: str) -> None:
        def got(name: str) -> PastCall:
            return replace(call("get", path="/x"), result_json=result.replace("NEW", name))

        def said(name: str) -> str:
            return value.replace("NEW", name).replace("new", name)

        for name in ("one", "two", "three", "four", "five"):
            taught.teach(at("go", got(name)), call("note", text=said(name)))
        expected = said("six")
        assert taught.best(at("go", got("six"))) == ("note", {"text": expected})

    @pytest.mark.parametrize(
        ("before", "after"),
        [(str.upper, str.lower), (str.lower, str.upper), (str.lower, str.title)],
        ids=["lower", "upper", "title"],
    )
    def test_a_value_changes_its_case(
        self, taught: Taught, before: Callable[[str], str], after: Callable[[str], str]
    ) -> None:
        for name in ("one", "two", "three", "four"):
            got = call("get", {"id": before(name)}, path="/x")
            taught.teach(at("go", got), call("note", text=after(name)))
        got = call("get", {"id": before("new")}, path="/x")
        assert taught.best(at("go", got)) == ("note", {"text": after("new")})

    def test_a_number_becomes_a_text(self, taught: Taught) -> None:
        for number in (3, 14, 17, 5):
            got = call("get", {"id": number}, path="/x")
            taught.teach(at("go", got), call("note", text=str(number)))
        got = call("get", {"id": 99}, path="/x")
        assert taught.best(at("go", got)) == ("note", {"text": "99"})

    def test_a_text_becomes_a_number(self, taught: Taught) -> None:
        for number in (3, 14, 17, 5):
            got = call("get", {"left": str(number)}, path="/x")
            taught.teach(at("go", got), call("count", n=number, unit="m"))
        got = call("get", {"left": "99"}, path="/x")
        assert taught.best(at("go", got)) == ("count", {"n": 99, "unit": "m"})

    def test_a_constant_needs_no_source(self, taught: Taught) -> None:
        for text in ("go", "please go", "go on"):
            taught.teach(at(text), call("note", text="always the same"))
        assert taught.best(at("go there")) == ("note", {"text": "always the same"})

    def test_a_value_comes_from_an_earlier_argument(self, taught: Taught) -> None:
        for name in ("/a", "/b", "/c", "/d"):
            got = call("get", "ok", path=name)
            taught.teach(at("go", got), call("note", text=name))
            taught.teach(at("again", earlier=(got,)), call("get", path=name))
        got = call("get", "ok", path="/new")
        assert taught.best(at("go", got)) == ("note", {"text": "/new"})
        assert taught.best(at("again", earlier=(got,))) == ("get", {"path": "/new"})

    def test_words_tell_a_constant(self, taught: Taught) -> None:
        for number in range(8):
            unit, word = ("w", "words") if number % 2 else ("l", "lines")
            taught.teach(at(f"count the {word} of it"), call("count", n=1, unit=unit))
        assert taught.best(at("how many words?")) == ("count", {"n": 1, "unit": "w"})
        assert taught.best(at("how many lines?")) == ("count", {"n": 1, "unit": "l"})

    def test_words_tell_whether_an_optional_argument_is_there(self, taught: Taught) -> None:
        for _ in range(6):
            taught.teach(at("count everything, hidden too"), call("count", n=1, unit="hidden"))
            taught.teach(at("count everything"), call("count", n=1))
        assert taught.best(at("count it, hidden too")) == ("count", {"n": 1, "unit": "hidden"})
        assert taught.best(at("count everything")) == ("count", {"n": 1})

    def test_arrays_and_objects_are_put_together_again(self, taught: Taught) -> None:
        for name in ("one", "two", "three", "four"):
            taught.teach(
                at(f"tag it '{name}' now"),
                call("make", what={"tags": [name, "new"], "deep": {"empty": {}}, "none": None}),
            )
        assert taught.best(at("tag it 'five' now")) == (
            "make",
            {"what": {"tags": ["five", "new"], "deep": {"empty": {}}, "none": None}},
        )

    def test_a_long_array_is_one_value(self, taught: Taught) -> None:
        for start in range(4):
            numbers = list(range(start, start + 20))
            taught.teach(
                at("go", call("get", {"all": numbers}, path="/")), call("tag", tags=numbers)
            )
        numbers = list(range(50, 70))
        got = call("get", {"all": numbers}, path="/")
        assert taught.best(at("go", got)) == ("tag", {"tags": numbers})

    def test_a_call_without_arguments_is_learned(self, taught: Taught) -> None:
        taught.teach(at("go"), call("get"))
        assert taught.best(at("go")) == ("get", {})


class TestRepetition:
    def test_a_call_that_was_made_is_not_expected_again(self, taught: Taught) -> None:
        first, second = call("get", "x", path="/a"), call("get", "x", path="/b")
        for _ in range(15):
            taught.teach(at("go"), first)
            taught.teach(at("go", first), second)
            taught.teach(at("go", first, second))
        assert taught.best(at("go", first)) == ("get", {"path": "/b"})
        assert taught.confidence(at("go", first), first) < 0.1

    def test_a_call_that_is_made_again_and_again_is_expected(self, taught: Taught) -> None:
        poll = call("get", "pending", path="/state")
        for _ in range(15):
            taught.teach(at("wait"), poll)
            taught.teach(at("wait", poll), poll)
            taught.teach(at("wait", poll, poll), poll)
        assert taught.confidence(at("wait", poll), poll) > 0.6


class TestAge:
    def test_new_habits_replace_old_ones(self, taught: Taught) -> None:
        for _ in range(50):
            taught.teach(at("go"), call("get", path="/old"))
        for _ in range(8):
            taught.teach(at("go"), call("get", path="/new"))
        assert taught.best(at("go")) == ("get", {"path": "/new"})

    def test_what_is_not_seen_again_is_forgotten(self) -> None:
        short, long = Taught(half_life_calls=5), Taught(half_life_calls=100_000)
        for each in (short, long):
            for _ in range(10):
                each.teach(at("one"), call("get", path="/a"))
            for number in range(100):
                each.teach(at("two", call("note", text="x")), call("count", n=number, unit="m"))
        asked, of = at("one"), call("get", path="/a")
        assert short.confidence(asked, of) < long.confidence(asked, of) / 2

    def test_a_model_lives_longer_than_its_scale(self) -> None:
        """The scale of the weights gets too small after some thousand calls, and starts again."""
        taught = Taught(half_life_calls=1)
        for number in range(1500):
            taught.teach(at("go"), call("get", path="/a"))
            if number % 100 == 99:
                assert taught.best(at("go")) == ("get", {"path": "/a"})


class TestBounds:
    def test_only_so_many_tools_and_arguments_are_known(self) -> None:
        taught = Taught()
        tools = named(*(tool(f"t{number}") for number in range(TOOLS_MAX + 20)))
        for name in tools:
            arguments = {f"a{number}": number for number in range(12)}
            taught.teach(situation("go", tools=tools), call(name, **arguments))
        known = taught.model.arguments
        assert len(known) <= TOOLS_MAX
        assert sum(known.values()) <= KNOWN_LEAVES_MAX
        assert taught.model.weights <= WEIGHTS_MAX
        assert f"t{TOOLS_MAX + 19}" in known

    def test_a_call_with_too_many_arguments_teaches_its_name_only(self, taught: Taught) -> None:
        many = {f"a{number}": number for number in range(100)}
        for _ in range(3):
            taught.teach(at("go"), call("get", **many))
        assert taught.ask(at("go")) == []
