"""The memory bank, and the coreset that it keeps."""
