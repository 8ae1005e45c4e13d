"""Command recognition over gRPC."""
