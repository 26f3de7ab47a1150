"""Modules and functions stay small enough to read in one sitting."""

from __future__ import annotations

import ast

from tests.repo.files import text, written

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70


def test_modules_are_short() -> None:
    lines = {path: len(text(path).splitlines()) for path in written(".py", ".go", ".proto")}
    assert not {path: count for path, count in lines.items() if count > MODULE_LINES_MAX}


def test_functions_are_short() -> None:
    lines = {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in written(".py")
        for node in ast.walk(ast.parse(text(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: count for name, count in lines.items() if count > FUNCTION_LINES_MAX}
