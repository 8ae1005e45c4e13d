"""Language model engines, and what they share."""
