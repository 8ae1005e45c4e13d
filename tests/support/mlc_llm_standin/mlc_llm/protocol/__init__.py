"""As python/mlc_llm/protocol, as far as it is used."""
