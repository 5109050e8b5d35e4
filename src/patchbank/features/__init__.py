"""From an image to its patches' features."""
