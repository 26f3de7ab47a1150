"""The errors of the cache, with messages for its clients."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from precall_service.cache.base import CacheKey, ResourceVersion, StoreUnavailableError
from precall_service.cache.counts import TenantCounts
from precall_service.domain.errors import Reason, ServiceError

RETRY_AFTER_S = 1.0


@contextmanager
def unavailable(counts: TenantCounts) -> Generator[None]:
    """Counts a failure of the store in the block, and raises it as CACHE_STORE_UNAVAILABLE."""
    try:
        yield
    except StoreUnavailableError as error:
        counts.store_failures += 1
        raise ServiceError(
            Reason.CACHE_STORE_UNAVAILABLE,
            f"the server cannot use its cache store: {error}; try again in {RETRY_AFTER_S:g} s",
            retry_after_s=RETRY_AFTER_S,
        ) from None


def entry_unknown(key: CacheKey) -> ServiceError:
    """There is no usable entry, for any reason."""
    return ServiceError(
        Reason.CACHE_ENTRY_UNKNOWN,
        f"the cache has no usable entry for this call of tool {key.tool_name!r}: compute the "
        "result, and put it if it may be used again",
        metadata={"tool_name": key.tool_name},
    )


def value_too_large(size: int, limit: int) -> ServiceError:
    """The result is larger than an entry may be."""
    return ServiceError(
        Reason.TOO_LARGE,
        f"result_json and content have {size} bytes, the limit of an entry is {limit}: store a "
        "smaller result, or where to find it",
        field="result_json",
        metadata={"size": str(size), "limit": str(limit)},
    )


def resource_changed(resource: str) -> ServiceError:
    """A resource has changed since its version was read; or, if it is empty, another node."""
    what = repr(resource) if resource else "something that the entry depends on"
    return ServiceError(
        Reason.CACHE_RESOURCE_CHANGED,
        f"{what} has changed since the versions were read, so the result may be out of date: "
        "read the versions again, compute the result again, and put it",
        field="observed_versions",
        metadata={"resource": resource},
    )


def version_mismatch(actual: int, expected: int | None) -> ServiceError:
    """The usable entry does not have the expected version."""
    found = f"the entry has version {actual}" if actual else "there is no usable entry"
    wanted = f"version {expected}" if expected else "no entry"
    return ServiceError(
        Reason.CACHE_VERSION_MISMATCH,
        f"{found}, but {wanted} was expected: get the entry and decide again",
        field="expected_entry_version",
        metadata={"entry_version": str(actual), "expected": str(expected)},
    )


def not_yet(resource: str, observed: Sequence[ResourceVersion]) -> ServiceError:
    """The observed version was never given out; or, if the resource is empty, the position."""
    if not resource:
        return ServiceError(
            Reason.FIELD_INVALID,
            "this position was never given out: send the one that GetResourceVersions returned",
            field="observed_position",
        )
    index = [seen.resource for seen in observed].index(resource)
    return ServiceError(
        Reason.FIELD_INVALID,
        f"{resource!r} never had this version: send the one that GetResourceVersions returned",
        field=f"observed_versions[{index}].version",
        metadata={"resource": resource},
    )


def too_many_watches(whose: str, limit: int) -> ServiceError:
    """The server or a tenant has as many open streams of Watch as it may have."""
    return ServiceError(
        Reason.LIMIT_REACHED,
        f"{whose} has {limit} open streams of Watch, which is the limit: close one first",
        metadata={"limit": str(limit)},
    )
