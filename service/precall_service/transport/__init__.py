"""gRPC: the only package that knows the wire messages. Frames in, frames out, statuses."""
