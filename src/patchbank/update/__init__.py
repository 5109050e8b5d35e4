"""The bank's next version: images added and removed, and the way back."""
