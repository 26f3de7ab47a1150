"""Every span, attribute and value name that precall emits."""

from __future__ import annotations

from typing import Final

# Spans.
INVOKE_AGENT: Final = "invoke_agent"
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
SPECULATE: Final = "speculate"

# GenAI semantic conventions.
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
AGENT_NAME: Final = "gen_ai.agent.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_SEED: Final = "gen_ai.request.seed"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_TYPE_FUNCTION: Final = "function"

# General conventions.
ERROR_TYPE: Final = "error.type"

# precall's own: the conventions do not allow other names under `gen_ai`.
TURN_ID: Final = "precall.turn.id"
TURN_OUTCOME: Final = "precall.turn.outcome"
TURN_QUEUE_TIME: Final = "precall.turn.queue_time"
TURN_STEPS: Final = "precall.turn.steps"
TURN_TOOL_CALLS: Final = "precall.turn.tool_calls"
TURN_CACHE_HITS: Final = "precall.turn.cache_hits"
TURN_PREDICTIONS: Final = "precall.turn.predictions"
TURN_PREDICTIONS_CONFIRMED: Final = "precall.turn.predictions_confirmed"
TURN_SAVED_BY_OVERLAP: Final = "precall.turn.saved_by_overlap"
TURN_SAVED_BY_DRAFTS: Final = "precall.turn.saved_by_drafts"
TURN_DRAFT_TOKENS_PROPOSED: Final = "precall.turn.draft_tokens_proposed"
TURN_DRAFT_TOKENS_ACCEPTED: Final = "precall.turn.draft_tokens_accepted"
TURN_WASTED_TIME: Final = "precall.turn.wasted_time"
TENANT: Final = "precall.tenant"
TOOL_OUTCOME: Final = "precall.tool.outcome"
TOOL_RESULT_SOURCE: Final = "precall.tool.result_source"
TOOL_CACHE_ENTRY_VERSION: Final = "precall.tool.cache.entry_version"
TOOL_CACHE_AGE: Final = "precall.tool.cache.age"
TOOL_TIME_SAVED: Final = "precall.tool.time_saved"
PREDICTION_PREDICTOR: Final = "precall.prediction.predictor"
PREDICTION_CONFIDENCE: Final = "precall.prediction.confidence"
PREDICTION_DEPTH: Final = "precall.prediction.depth"
PREDICTION_OUTCOME: Final = "precall.prediction.outcome"
PREDICTION_DISCARD_REASON: Final = "precall.prediction.discard_reason"
PREDICTION_LEAD_TIME: Final = "precall.prediction.lead_time"
PREDICTION_TIME_WASTED: Final = "precall.prediction.time_wasted"
