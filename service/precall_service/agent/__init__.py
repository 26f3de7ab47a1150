"""The agent loop: conversations, their turns, and what is told about them."""
