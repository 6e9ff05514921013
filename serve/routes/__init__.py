"""Route groups of the gateway, one file a group."""
