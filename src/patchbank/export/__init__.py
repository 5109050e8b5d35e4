"""Results for other tools: formats that programs for labels read."""
