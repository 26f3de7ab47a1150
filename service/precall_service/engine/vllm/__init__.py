"""The embedded backend: vLLM's AsyncLLM behind the engine protocol.

Owns: everything that knows vLLM. It is the only package that imports it. The first module of it to
do so is the one that `factory` imports, for vLLM reads its environment when it is imported, and
`environment` has to come first.
"""

from __future__ import annotations

import logging

# While vLLM is imported it logs before it has read any configuration. This holds in its processes
# too: they import the main module first, and that imports this one.
logging.getLogger("vllm").setLevel(logging.ERROR)
