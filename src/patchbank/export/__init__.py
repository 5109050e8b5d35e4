"""For other tools: results as formats that programs for labels read; a model as a graph that other programs run."""
