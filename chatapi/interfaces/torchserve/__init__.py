"""TorchServe's HTTP and gRPC interfaces, so that its clients work with the box unchanged."""
