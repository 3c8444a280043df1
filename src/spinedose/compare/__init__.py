"""Pure comparisons of dose volumes: dose-volume histograms, gamma, metrics."""
