"""Problems to train: data, a model and a loss."""
