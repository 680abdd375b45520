"""The file boundary: images, masks, tables and pictures, read within bounds, written whole or not at all."""
