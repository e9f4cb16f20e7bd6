"""Is a finished build what it says? Contracts of the features, its libraries, and the ABI of its pin."""
