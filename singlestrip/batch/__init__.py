"""Many files: strips images, assesses masks, records what outputs were made with, shares work out."""
