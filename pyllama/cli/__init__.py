"""The command line, `pyllama …`: thin wrappers around the builder and the runtime."""
