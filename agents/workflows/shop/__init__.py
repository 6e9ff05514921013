"""Shop operations: product copy from attributes, price experiments, returns."""
