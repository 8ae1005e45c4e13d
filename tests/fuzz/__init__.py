"""Hostile inputs for every interface of a running server, and a judge of what it answers."""
