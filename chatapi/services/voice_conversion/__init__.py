"""Voice conversion: stored voices, and recordings said in one of them."""
