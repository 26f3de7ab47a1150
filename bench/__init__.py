"""Measures precall against the software it builds on. Ratios compare arms of the same run.

`python -m bench --help` lists the benches. docs/benchmarks.md reports their results.
"""
