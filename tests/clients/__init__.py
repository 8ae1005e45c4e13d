"""Third-party clients, installed into environments of their own and run unmodified."""
