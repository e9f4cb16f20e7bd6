"""Compile a patched tree: tools, CPU options, backends, CMake and Ninja."""
