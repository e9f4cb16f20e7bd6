"""Wheels out of one finished build: the core, and one for each other backend. `python -m backend_wheels`."""
