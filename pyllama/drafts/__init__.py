"""Speculative decoding: who drafts tokens, and how the model verifies several at once."""
