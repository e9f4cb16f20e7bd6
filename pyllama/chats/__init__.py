"""Chats by the model's own template: messages, tools, and what the model answers, read in pieces."""
