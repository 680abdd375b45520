"""A labelled scan to GMM classes, and a map of them to random images."""
