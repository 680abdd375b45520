"""An image to a brain mask, on arrays."""
