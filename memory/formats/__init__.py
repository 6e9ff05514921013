"""What each format is cut at: one module a format, each from a file's bytes or text to passages."""
