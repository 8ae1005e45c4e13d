"""Many requests at once to a server, with their latency and the server's memory over time."""
