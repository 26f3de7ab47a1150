"""Minutes of everything at once, after which nothing may be left: `make soak`."""
