"""The networks, what they train with, the processor they run on, and the files that hold them."""
