"""Charts, from tables of numbers."""
