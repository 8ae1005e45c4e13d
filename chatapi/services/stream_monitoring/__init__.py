"""Monitors live streams for sounds, and accounts for every second of them."""
