"""Reruns of every experiment of the paper, with a verdict on each claim."""
