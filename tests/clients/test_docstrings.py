"""A docstring reaches the model whole: parameters in the schema, everything else as written."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from precall import Tool


def tool_of(text: str) -> tuple[str, dict[str, str]]:
    """Returns what the model sees of a docstring: the description, and the parameters' texts."""

    def forecast(city: str, days: int = 1) -> None: ...

    forecast.__doc__ = text
    tool = Tool.from_function(forecast)
    properties: Any = tool.input_schema["properties"]
    return tool.description, {
        name: shown["description"] for name, shown in properties.items() if "description" in shown
    }


GOOGLE = """Forecast of the weather.

    Ask for one city at a time.

    Args:
        city: Name of the city.
        days (int): How many days,
            at most 7.

    Returns:
        The weather, as a dict:

        - `temperature`: in degrees
        - `rain`: in millimetres

    Raises:
        LookupError: There is no such city. Try its English name.

    Examples:
        >>> forecast("Rome")
        {"temperature": 21}

        The second one is longer.

    Note:
        It may be wrong.

    Call it once.
    """
NUMPY = """Forecast of the weather.

    Ask for one city at a time.

    Parameters
    ----------
    city : str
        Name of the city.
    days : int, optional
        How many days,
        at most 7.

    Returns
    -------
    dict
        The weather.

    Raises
    ------
    LookupError
        There is no such city.

    Examples
    --------
    >>> forecast("Rome")
    {"temperature": 21}
    """
SPHINX = """Forecast of the weather.

    Ask for one city at a time.

    :param city: Name of the city.
    :param int days: How many days,
        at most 7.
    :type city: str
    :returns: The weather.
    :rtype: dict
    :raises LookupError: There is no such city.
    """


@pytest.mark.parametrize(
    ("text", "begins", "ends"),
    [(GOOGLE, "    Args:", "    Returns:"), (NUMPY, "    Parameters", "    Returns"),
     (SPHINX, "    :param city", "    :returns")],
    ids=["google", "numpy", "sphinx"],
)  # fmt: skip
def test_only_what_is_in_the_schema_is_left_out(text: str, begins: str, ends: str) -> None:
    description, parameters = tool_of(text)
    before, after = text.index(begins), text.index(ends)
    assert description == inspect.cleandoc(text[:before] + text[after:])
    assert parameters == {"city": "Name of the city.", "days": "How many days,\nat most 7."}


@pytest.mark.parametrize(
    "text",
    [
        "Forecast: what comes.\n\nColons: they are no headings.\n\n    indented\n\nThe end.",
        "Says it.\n\nReturns:\n    Nothing.",
        "Says it.\n\n    >>> code\n\nYields:\n    Rows.\n\nWarning:\n    Slow.",
        "Says it.\n\n- a list\n- of things\n\n1. and\n2. numbers",
        "Sagt, wie das Wetter wird. 天気",
        "",
    ],
)
def test_a_docstring_without_parameters_is_the_description(text: str) -> None:
    assert tool_of(text) == (text, {})


def test_a_section_of_parameters_alone_leaves_no_description() -> None:
    assert tool_of("Args:\n        city: Name of the city.\n    ") == (
        "",
        {"city": "Name of the city."},
    )


def test_a_description_may_follow_its_sections() -> None:
    text = "Args:\n    city: Name of the city.\n\nReturns:\n    Nothing.\n\nForecast."
    description, parameters = tool_of("\n" + text)
    assert description == "Returns:\n    Nothing.\n\nForecast."
    assert parameters == {"city": "Name of the city."}
