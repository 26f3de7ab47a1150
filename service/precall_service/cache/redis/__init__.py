"""Keeps the cache in Redis or Valkey, for several servers: see docs/cache.md."""
