"""Problems to train: data, model and loss."""
