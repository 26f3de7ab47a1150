"""Copies the service's checks of schemas, values and resources into the fake server.

The fake server refuses what the server refuses, but needs nothing of the service. So it has copies
of the modules that decide, in clients/python/src/precall/testing/_service, each under its name in
the service. `make gen` writes them; `make lint` compares them (scripts/gen.py).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from gen_events import formatted

ROOT = Path(__file__).resolve().parent.parent
SERVICE = ROOT / "service/precall_service"
COPIES = ROOT / "clients/python/src/precall/testing/_service"

WANTED = ("domain/normal_schema.py", "domain/resources.py", "tools/schema.py")
"""The modules that the fake server uses. What they import of the service is copied, too."""
PACKAGES = ("domain", "tools")
"""The packages from which modules may be copied: neither does I/O."""

INIT = '"""Copies of modules of the service, made by `make gen`. Do not edit."""\n'
HEAD = "# Copied from service/precall_service/{name} by `make gen`. Do not edit.\n"

_IMPORT = re.compile(r"^from precall_service\.(?P<module>[\w.]+) import ", re.MULTILINE)


def modules() -> dict[str, str]:
    """The texts of the copies by their paths in the repository."""
    texts: dict[str, str] = {}
    waiting = list(WANTED)
    while waiting:
        name = waiting.pop()
        path = str((COPIES / name).relative_to(ROOT))
        if path in texts:
            continue
        if name.partition("/")[0] not in PACKAGES:
            sys.exit(f"gen: {name} is needed by a copy, but only {PACKAGES} may be copied")
        text = (SERVICE / name).read_text()
        waiting += [f"{module.replace('.', '/')}.py" for module in _IMPORT.findall(text)]
        copied = _IMPORT.sub(r"from precall.testing._service.\g<module> import ", text)
        if "precall_service" in copied:
            sys.exit(f"gen: {name} names the service, and not only in a `from` import")
        texts[path] = formatted(path, HEAD.format(name=name) + copied)
    for folder in (COPIES, *(COPIES / package for package in PACKAGES)):
        texts[str((folder / "__init__.py").relative_to(ROOT))] = INIT
    return texts
