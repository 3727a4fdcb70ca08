"""Training runs of linear regression, many at once."""
