"""The stack of features: read it, choose from it, apply it as a transaction, say how it stands."""
