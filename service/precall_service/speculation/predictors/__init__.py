"""The predictors, a file for each."""
