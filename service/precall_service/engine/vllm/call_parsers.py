"""Puts our own readers of calls in the place of vLLM's, for the families that they can read.

vLLM's parsers for them search for the mark that ends a call, also inside of strings, read the whole
message again at each token, or know calls only in one of the forms that the family writes.

Owns: which of vLLM's parsers are replaced. Never: reads a message itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.parser.abstract_parser import Parser
from vllm.tool_parsers.abstract_tool_parser import ToolParser
from vllm.tool_parsers.apertus_tool_parser import ApertusToolParser
from vllm.tool_parsers.deepseekv3_tool_parser import DeepSeekV3ToolParser
from vllm.tool_parsers.deepseekv31_tool_parser import DeepSeekV31ToolParser
from vllm.tool_parsers.ernie45_tool_parser import Ernie45ToolParser
from vllm.tool_parsers.functiongemma_tool_parser import FunctionGemmaToolParser
from vllm.tool_parsers.gemma4_engine_tool_parser import Gemma4EngineToolParser
from vllm.tool_parsers.gigachat3_tool_parser import GigaChat3ToolParser
from vllm.tool_parsers.granite4_tool_parser import Granite4ToolParser
from vllm.tool_parsers.granite_engine_tool_parser import GraniteEngineToolParser
from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser
from vllm.tool_parsers.hunyuan_a13b_tool_parser import HunyuanA13BToolParser
from vllm.tool_parsers.internlm2_tool_parser import Internlm2ToolParser
from vllm.tool_parsers.jamba_tool_parser import JambaToolParser
from vllm.tool_parsers.kimi_k2_tool_parser import KimiK2ToolParser
from vllm.tool_parsers.lfm2_tool_parser import Lfm2ToolParser
from vllm.tool_parsers.llama4_pythonic_tool_parser import Llama4PythonicToolParser
from vllm.tool_parsers.llama_tool_parser import Llama3JsonToolParser
from vllm.tool_parsers.longcat_tool_parser import LongcatFlashToolParser
from vllm.tool_parsers.mistral_tool_parser import MistralToolParser
from vllm.tool_parsers.olmo3_tool_parser import Olmo3PythonicToolParser

from precall_service.engine.vllm import call_forms
from precall_service.engine.vllm.call_reader import (
    Arguments,
    Begun,
    CallReader,
    Read,
    Refused,
    Text,
)
from precall_service.engine.vllm.json_calls import JsonCallReader, JsonForm
from precall_service.engine.vllm.literal_calls import LiteralCallReader, LiteralForm

THOUGHT_MARKS: Final = ("<think>", "</think>")


class CallParser(ToolParser):
    """A parser of vLLM's whose reading of calls is ours.

    `read` reads the next piece of a message alone; vLLM would copy all that came before.

    Attributes:
        form: How the family writes calls.
        thought: The marks around a thought that begins a message; other marks than the usual ones
            are read here even if vLLM has a reasoning parser, whose other half was replaced.
        reader: What has read the message so far.
    """

    engine_based_streaming = False
    form: ClassVar[JsonForm | LiteralForm]
    thought: ClassVar[tuple[str, str]] = THOUGHT_MARKS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reader = self.new_reader()
        self.begun = False
        """Whether the message has left its reasoning: all that follows may be given to `read`."""
        self._calls = 0
        self._refused: dict[int, str] = {}

    @property
    def starts(self) -> tuple[str, ...]:
        """The marks that begin calls."""
        return self.form.starts

    @classmethod
    def new_reader(cls) -> CallReader:
        """The reader of one message."""
        form = cls.form
        return JsonCallReader(form) if isinstance(form, JsonForm) else LiteralCallReader(form)

    def read(self, text: str) -> DeltaMessage | None:
        """What the next piece of the message, after its reasoning, completes."""
        self.begun = True
        return self._delta(self.reader.feed(text))

    def end(self) -> DeltaMessage | None:
        """What was held back until the message ended."""
        return self._delta(self.reader.end())

    def refused(self) -> dict[int, str]:
        """What is wrong with calls that were found to be unreadable since this was last asked."""
        refused, self._refused = self._refused, {}
        return refused

    def _delta(self, reads: Iterable[Read]) -> DeltaMessage | None:
        said: list[str] = []
        calls: list[DeltaToolCall] = []
        for read in reads:
            match read:
                case Text(part):
                    said.append(part)
                case Begun(name, written_id):
                    calls.append(
                        DeltaToolCall(
                            index=self._calls,
                            type="function",
                            id=written_id,
                            function=DeltaFunctionCall(name=name),
                        )
                    )
                    self._calls += 1
                case Arguments(fragment):
                    function = DeltaFunctionCall(arguments=fragment)
                    calls.append(DeltaToolCall(index=self._calls - 1, function=function))
                case Refused(problem):
                    self._refused[self._calls - 1] = problem
        if not said and not calls:
            return None
        return DeltaMessage(content="".join(said) or None, tool_calls=calls)

    def extract_tool_calls_streaming(  # noqa: PLR0917 - vLLM's
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: Any,
    ) -> DeltaMessage | None:
        """As vLLM's."""
        return self.read(delta_text)

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """As vLLM's: the calls of a whole message."""
        reader = self.new_reader()
        said, calls = _whole([*reader.feed(model_output), *reader.end()])
        return ExtractedToolCallInformation(
            tools_called=bool(calls),
            tool_calls=[
                ToolCall(type="function", function=FunctionCall(name=name, arguments=arguments))
                for name, arguments in calls
            ],
            content=said or None,
        )


class HermesCallParser(CallParser, Hermes2ProToolParser):
    """For `<tool_call>{...}</tool_call>`, with vLLM's grammar of that form."""

    form = call_forms.HERMES


class GraniteCallParser(CallParser):
    """For `<tool_call>[{...}, {...}]`, or the same after a token, of which vLLM has no grammar."""

    form = call_forms.GRANITE


class LongcatCallParser(CallParser):
    """As Hermes's, with marks and a grammar of LongCat's own."""

    structural_tag_model = LongcatFlashToolParser.structural_tag_model
    form = call_forms.LONGCAT


class KimiCallParser(CallParser):
    """For calls whose names and ids stand before their arguments, as Kimi K2 writes them."""

    structural_tag_model = KimiK2ToolParser.structural_tag_model
    form = call_forms.KIMI


class MistralCallParser(CallParser, MistralToolParser):
    """For `[TOOL_CALLS][{...}, {...}]` and all forms of `[TOOL_CALLS]name{...}`.

    Mistral's own tokenizers bring a grammar, which stays vLLM's.
    """

    engine_based_streaming = False
    form = call_forms.MISTRAL
    thought = ("[THINK]", "[/THINK]")


class InternlmCallParser(CallParser):
    """For `<|action_start|><|plugin|>{...}<|action_end|>`."""

    form = call_forms.INTERNLM


class LlamaCallParser(CallParser):
    """For bare objects, or objects after a token, as Llama 3 writes them."""

    structural_tag_model = Llama3JsonToolParser.structural_tag_model
    form = call_forms.LLAMA


class ToolCallsCallParser(CallParser):
    """For `<tool_calls>[{...}, {...}]</tool_calls>`, as Jamba and Hunyuan A13B write them."""

    form = call_forms.TOOL_CALLS


class ErnieCallParser(CallParser):
    """As Hermes's, beside texts that stand between marks of their own."""

    form = call_forms.ERNIE


class DeepSeekCallParser(CallParser):
    """For the calls of DeepSeek V3.1, whose names stand before their arguments."""

    structural_tag_model = DeepSeekV31ToolParser.structural_tag_model
    form = call_forms.DEEPSEEK


class FencedDeepSeekCallParser(DeepSeekCallParser):
    """For the calls of DeepSeek V3 and R1, which fence the arguments as a code block."""

    structural_tag_model = DeepSeekV3ToolParser.structural_tag_model


class ApertusCallParser(CallParser):
    """For `<|tools_prefix|>[{"name": {...}}]<|tools_suffix|>`."""

    form = call_forms.APERTUS


class GigaChatCallParser(CallParser):
    """For an object after a token, or in a message of its own, as GigaChat 3 writes them."""

    form = call_forms.GIGACHAT


class LfmCallParser(CallParser):
    """For `[name(argument='value')]` between the tokens of LFM2."""

    form = call_forms.LFM


class OlmoCallParser(CallParser):
    """For lines of calls between tags, as OLMo 3 writes them."""

    form = call_forms.OLMO


class Llama4CallParser(CallParser):
    """For a list of calls, with or without the tokens around it."""

    form = call_forms.LLAMA4


class GemmaCallParser(CallParser):
    """For `call:name{argument:value}` between the tokens of Gemma 4."""

    supports_required_and_named = False
    form = call_forms.GEMMA
    thought = ("<|channel>thought\n", "<channel|>")


class FunctionGemmaCallParser(CallParser):
    """The same with the tokens of FunctionGemma."""

    form = call_forms.FUNCTION_GEMMA


_READ_HERE: Final[Mapping[type[ToolParser], type[CallParser]]] = {
    ApertusToolParser: ApertusCallParser,
    DeepSeekV31ToolParser: DeepSeekCallParser,
    DeepSeekV3ToolParser: FencedDeepSeekCallParser,
    Ernie45ToolParser: ErnieCallParser,
    FunctionGemmaToolParser: FunctionGemmaCallParser,
    Gemma4EngineToolParser: GemmaCallParser,
    GigaChat3ToolParser: GigaChatCallParser,
    Granite4ToolParser: HermesCallParser,
    GraniteEngineToolParser: GraniteCallParser,
    Hermes2ProToolParser: HermesCallParser,
    HunyuanA13BToolParser: ToolCallsCallParser,
    Internlm2ToolParser: InternlmCallParser,
    JambaToolParser: ToolCallsCallParser,
    KimiK2ToolParser: KimiCallParser,
    Lfm2ToolParser: LfmCallParser,
    Llama3JsonToolParser: LlamaCallParser,
    Llama4PythonicToolParser: Llama4CallParser,
    LongcatFlashToolParser: LongcatCallParser,
    MistralToolParser: MistralCallParser,
    Olmo3PythonicToolParser: OlmoCallParser,
}


def reading_calls(parser_class: type[Parser]) -> type[Parser]:
    """The same parser, with our reader of calls if it can read those of the family."""
    own = parser_class.tool_parser_cls
    if own is not None:
        parser_class.tool_parser_cls = _READ_HERE.get(own, own)
    return parser_class


def own_opening(tool_parser: ToolParser | None) -> str:
    """What opens a thought, if a parser of ours reads it instead of vLLM's; else an empty text."""
    if not isinstance(tool_parser, CallParser) or tool_parser.thought is THOUGHT_MARKS:
        return ""
    return tool_parser.thought[0]


def _whole(reads: Iterable[Read]) -> tuple[str, list[tuple[str, str]]]:
    said = ""
    calls: list[tuple[str, list[str]]] = []
    for read in reads:
        match read:
            case Text(part):
                said += part
            case Begun(name):
                calls.append((name, []))
            case Arguments(fragment):
                calls[-1][1].append(fragment)
            case Refused():
                pass
    return said, [(name, "".join(fragments)) for name, fragments in calls]
