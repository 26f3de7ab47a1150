"""Values and rules of precall: what conversations, turns, steps and tools are.

Never: I/O, asyncio, protobuf, gRPC, OpenTelemetry, or any other package of ours.
"""
