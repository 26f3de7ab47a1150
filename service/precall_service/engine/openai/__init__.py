"""The remote backend: any server with an OpenAI-compatible interface, behind the engine protocol.

It predicts calls and runs the safe ones early; it cannot branch, verify drafts, or hold calls to
their schemas. It is the only package that imports the OpenAI client.
"""
