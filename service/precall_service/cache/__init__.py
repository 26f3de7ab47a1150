"""The versioned cache of tool results: see docs/cache.md."""
