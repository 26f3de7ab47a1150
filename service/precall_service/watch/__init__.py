"""The service's watch on itself: what it measures always, and logs when a limit is passed."""
