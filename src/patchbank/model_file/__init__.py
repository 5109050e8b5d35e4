"""The model as one file, and back."""
