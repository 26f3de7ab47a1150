"""Shares one Redis server among the tests of this folder."""

from __future__ import annotations

from tests.support.redis_server import redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]
