"""Measures precall against what it stands on: every result is a ratio of arms inside one run.

`python -m bench --help` lists the benches, docs/benchmarks.md says what they have shown.
"""
