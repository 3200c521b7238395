"""Act inside a world policy's imagination."""
