"""Image files: headers, voxels, masks, lists of images, and the memory that an image takes."""
