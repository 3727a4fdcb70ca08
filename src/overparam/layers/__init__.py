"""What a weight of a model is: how it is read as matrices, and which weights are chosen."""
