"""Products of factors: formed, differentiated, balanced, initialized."""
