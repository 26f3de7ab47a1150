"""Tools: their declarations, the checks of what goes in and out, and the runs of their handlers.

Never: the model, turns, protobuf, gRPC.
"""
