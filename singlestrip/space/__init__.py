"""Arrays and where they lie: grids, resampling, morphology, distances and measures. Knows no files."""
