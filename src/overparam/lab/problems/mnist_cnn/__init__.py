"""The paper's convolutional network on MNIST, with cross-entropy and penalty recorded apart."""
