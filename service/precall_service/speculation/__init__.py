"""Speculation: predicted calls, and the decision which of them run early."""
