"""A server under mixed traffic for long, or killed during writes."""
