"""The HTTP face: `/completion`, the page, and what operators ask."""
