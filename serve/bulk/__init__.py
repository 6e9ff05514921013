"""Batches: thousands of requests worked through beside those that somebody waits for."""
