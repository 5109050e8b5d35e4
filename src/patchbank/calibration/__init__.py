"""What normal images say of thresholds, outliers and the image as a whole."""
