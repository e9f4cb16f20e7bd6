"""What a model may say: grammars, and JSON schemas made into them; what cannot be enforced is an error."""
