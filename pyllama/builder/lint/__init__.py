"""Is a series as it should be? Every finding of every feature, in one go."""
