"""Get a pin's pristine tree or the default model: from the cache, GitHub, the package index, or the user."""
