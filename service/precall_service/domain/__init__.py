"""Values and rules of precall: what conversations, turns, steps and tools are.

Never: does I/O, or imports asyncio, protobuf, gRPC, OpenTelemetry or any other precall package.
"""
