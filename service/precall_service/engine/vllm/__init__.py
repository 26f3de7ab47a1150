"""The embedded backend: vLLM's AsyncLLM behind the engine protocol.

Owns: everything that knows vLLM. It is the only package that imports it, and no module of it but
`config` and `environment` may be imported before `environment.prepare` has run, for vLLM reads its
environment once, when it is imported.
"""
