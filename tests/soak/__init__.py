"""A server under mixed traffic for long, killed in the middle of it, or held by many clients."""
