"""Bindings generator: from the patched public headers to a cffi module and its type stubs.

`headers` preprocesses and parses, `csource` writes what cffi and the C compiler read,
`stubs` writes the `.pyi`, `generate` runs them and compiles.
"""
