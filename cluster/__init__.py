"""Floor 0: where things run and what lasts. Imports libraries only."""
