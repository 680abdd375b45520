"""Synthetic images to the weights of a cascade, and to the level at which its border is drawn."""
