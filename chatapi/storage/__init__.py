"""Files and databases in the data directory."""
