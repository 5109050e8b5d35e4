"""Normal images say which scores, images and measures are usual: thresholds, outliers, image check."""
