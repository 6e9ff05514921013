"""Floor 1: what is known, and why it is believed. Imports cluster."""
