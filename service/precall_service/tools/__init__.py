"""Tools and the runs of their handlers: declared, checked, offered, dispatched.

Never: the model, turns, protobuf, gRPC.
"""
