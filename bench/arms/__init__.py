"""What is measured: each module runs as a process of its own (`bench.process`)."""
