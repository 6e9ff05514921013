"""Floor 3: how a request gets its answer. Composes everything below."""
