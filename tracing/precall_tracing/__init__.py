"""Names and spans of precall's traces: the one place that knows the semantic conventions."""
