"""From distances to scores and anomaly maps."""
