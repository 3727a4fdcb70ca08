"""The experiments that check the paper's theory: a check with its chart in each file."""
