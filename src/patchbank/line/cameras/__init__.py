"""Where a station's pictures come from."""
