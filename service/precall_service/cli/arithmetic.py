"""Evaluates arithmetic that a model wrote, in bounded time and memory.

Never: names, attributes or calls but those listed here; there is no `eval`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

Number: TypeAlias = int | float

_TEXT_MAX: Final = 500
_BITS_MAX: Final = 4096
"""Of a result: some 1,200 digits."""
_DIGITS_MAX: Final = 15


def _rounded(value: Number, digits: Number = 0) -> Number:
    """As `round`, whose cost grows with the digits that it is asked for."""
    if not (isinstance(digits, int) and abs(digits) <= _DIGITS_MAX):
        raise ValueError(f"round takes at most {_DIGITS_MAX} digits")
    return round(value, digits) if digits else round(value)


def _largest(*values: Number) -> Number:
    return max(values)


def _smallest(*values: Number) -> Number:
    return min(values)


def _magnitude(value: Number) -> Number:
    return abs(value)


_UNARY: Final[Mapping[type[ast.unaryop], Callable[[Number], Number]]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_NAMES: Final[Mapping[str, float]] = {"pi": math.pi, "e": math.e}
_FUNCTIONS: Final[Mapping[str, Callable[..., Number]]] = {
    "abs": _magnitude,
    "cos": math.cos,
    "exp": math.exp,
    "log": math.log,
    "max": _largest,
    "min": _smallest,
    "round": _rounded,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}


def evaluate(expression: str) -> Number:
    """The value of an expression such as `2 * (3 + sqrt(16)) ** 2`.

    Raises:
        ValueError: it is no arithmetic, has no value, or is too large; the message says which.
    """
    if len(expression) > _TEXT_MAX:
        raise ValueError(f"the expression is longer than {_TEXT_MAX} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _value(tree.body)
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{expression[:60]!r} is not an arithmetic expression") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except (OverflowError, TypeError) as error:
        raise ValueError(str(error)) from None


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(_value(left), op, _value(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*[_value(argument) for argument in args])
        case _:
            raise ValueError(
                f"{ast.unparse(node)!r} is not arithmetic: numbers, + - * / // % **, pi, e and "
                f"{', '.join(_FUNCTIONS)} are"
            )


def _combined(first: Number, op: ast.operator, second: Number) -> Number:
    match op:
        case ast.Add():
            return first + second
        case ast.Sub():
            return first - second
        case ast.Mult():
            _check_bits(first, second, _bits(first) + _bits(second))
            return first * second
        case ast.Div():
            return first / second
        case ast.FloorDiv():
            return first // second
        case ast.Mod():
            return first % second
        case ast.Pow():
            _check_bits(first, second, _bits(first) * max(int(second), 0))
            return _real(first**second)
        case _:
            raise ValueError("the operators are + - * / // % **")


def _bits(value: Number) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _check_bits(first: Number, second: Number, bits: int) -> None:
    """Refuses, before it is computed, what grows beyond the limit; floats cannot."""
    if isinstance(first, int) and isinstance(second, int) and bits > _BITS_MAX:
        raise ValueError("the result is too large")


def _real(value: object) -> Number:
    """Powers of negative numbers can leave the line."""
    if isinstance(value, int | float):
        return value
    raise ValueError("the result is not a real number")
