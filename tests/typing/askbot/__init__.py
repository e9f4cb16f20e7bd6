"""A program that uses pyllama as one does, with types throughout; tests/typing checks and runs it."""
