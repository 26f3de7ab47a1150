"""gRPC: reads frames, writes frames and statuses. Only this package knows the wire messages."""
