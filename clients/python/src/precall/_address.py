"""Validates an address and metadata, with clearer errors than gRPC's."""

from __future__ import annotations

import re
from collections.abc import Mapping

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):[0-9]+")
_TARGET = re.compile(r"(unix|unix-abstract|vsock|dns|ipv4|ipv6|xds):.*[^/\s]")

_TENANT_KEY = "precall-tenant"
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")


def checked_address(address: str) -> str:
    """Returns an address that gRPC can connect to.

    Raises:
        ValueError: The address is invalid, such as a URL, or an address without a port.
    """
    if not (_HOST_AND_PORT.fullmatch(address) or _TARGET.fullmatch(address)):
        raise ValueError(f"an address is host:port, such as localhost:50151, not {address!r}")
    return address


def checked_metadata(metadata: Mapping[str, str], tenant: str) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of every call: the given one, with keys in lower case, and the tenant.

    Raises:
        ValueError: HTTP/2 does not allow a key or a value, or the tenant's name is invalid.
    """
    checked = {_key(key): value for key, value in metadata.items()}
    for key, value in checked.items():
        if not isinstance(value, str) or not _VALUE.fullmatch(value):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"the metadata {key!r} must be an ASCII string, not {type(value).__name__}"
            )
    if tenant:
        if not _TENANT.fullmatch(tenant):
            raise ValueError(f"tenant {tenant!r} is not 1 to 64 of A-Z a-z 0-9 . _ -")
        checked[_TENANT_KEY] = tenant
    return tuple(checked.items())


def _key(key: str) -> str:
    lower = str(key).lower()
    if not _KEY.fullmatch(lower) or lower.startswith("grpc-") or lower.endswith("-bin"):
        raise ValueError(
            f"the metadata key {key!r} must consist of 0-9 a-z _ . and -, and neither begin with "
            "grpc- nor end with -bin"
        )
    return lower
