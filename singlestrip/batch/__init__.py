"""Work on many files: strips images, assesses masks, records how outputs were made, shares out the work."""
