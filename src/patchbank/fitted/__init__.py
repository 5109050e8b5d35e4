"""What a fit leaves behind, as data: the model, and the history of its bank."""
