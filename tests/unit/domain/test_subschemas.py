"""References are found without reading the schema again for each of them."""

from __future__ import annotations

from typing import Any

import pytest
from referencing import Registry

from precall_service.domain.json import JsonObject
from precall_service.domain.subschemas import Referred

SCHEMA: JsonObject = {
    "$id": "https://example.com/tool",
    "$defs": {
        "a": {"$anchor": "here", "type": "string"},
        "b": {"prefixItems": [True, {"not": True}]},
    },
}


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#here", {"$anchor": "here", "type": "string"}),
        ("#/$defs/a/type", "string"),
        ("#/$defs/b/prefixItems/1/not", True),
        ("#", SCHEMA),
    ],
)
def test_finds_what_a_reference_leads_to(reference: str, found: object) -> None:
    assert Referred(SCHEMA).by(reference) == found


@pytest.mark.parametrize("reference", ["#nowhere", "#/$defs/c", "#/$defs/b/prefixItems/x"])
def test_a_reference_to_nothing_is_told(reference: str) -> None:
    with pytest.raises(LookupError):
        Referred(SCHEMA).by(reference)


@pytest.mark.parametrize("schema", [{"properties": {"a": 7}}, {"items": [{"$anchor": "here"}]}])
def test_anchors_of_an_invalid_schema_lead_nowhere(schema: JsonObject) -> None:
    with pytest.raises(LookupError):
        Referred(schema).by("#here")


def test_anchors_are_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = 0
    crawl = Registry[Any].crawl

    def counted(self: Registry[Any]) -> Registry[Any]:
        nonlocal searches
        searches += bool(self._uncrawled)  # pyright: ignore[reportPrivateUsage]
        return crawl(self)

    monkeypatch.setattr(Registry, "crawl", counted)
    anchors: JsonObject = {f"d{n}": {"$anchor": f"a{n}"} for n in range(50)}
    referred = Referred({"$defs": anchors})
    for number in range(50):
        assert referred.by(f"#a{number}") == {"$anchor": f"a{number}"}
    assert searches == 1
