"""Build time: fetch a pin, apply the patch stack, compile, generate bindings.

Nothing here imports the runtime. `python -m pyllama.builder` works with no native module.
"""
