"""Every experiment of the paper, rerun, with a verdict on each claim."""
