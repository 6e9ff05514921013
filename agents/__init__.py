"""Floor 2: what may be done, and was it done once. Imports memory and cluster."""
