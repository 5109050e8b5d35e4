"""From an image to a result, and why it is so."""
