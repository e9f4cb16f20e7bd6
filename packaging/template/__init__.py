"""One plug-in for pyllama, which finds it by the entry point; see plugin.json."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
