"""Times the loading of a model with the library that PYLLAMA_BUILD names; prints JSON.

load_child.py MODEL MMAP REPACK
"""

from __future__ import annotations

import json
import sys
import time

import pyllama


def main() -> None:
    """Read the arguments, load once, print seconds of the clock and of all threads."""
    path, mmap, repack = sys.argv[1], bool(int(sys.argv[2])), bool(int(sys.argv[3]))
    pyllama.devices()  # libraries and plug-ins are loaded
    clock, cpu = time.perf_counter(), time.process_time()
    with pyllama.Model(path, devices=["CPU"], mmap=mmap, use_extra_bufts=repack):
        print(json.dumps({"clock": time.perf_counter() - clock, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
