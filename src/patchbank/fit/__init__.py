"""From training images to a fitted model."""
