"""The agent loop: conversations, their turns, and the events sent about them."""
