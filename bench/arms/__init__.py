"""The servers that are measured. Each module runs in its own process (`bench.process`)."""
