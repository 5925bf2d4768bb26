"""One small file for each architecture."""
