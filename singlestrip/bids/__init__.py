"""BIDS data sets: where images and derivatives lie, and the two levels of an app."""
