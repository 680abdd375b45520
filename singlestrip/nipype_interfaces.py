"""The public path of the nipype interfaces: `from singlestrip.nipype_interfaces import Strip`, and others."""

from .integrations.nipype import Quality, Segment, Strip

__all__ = ["Quality", "Segment", "Strip"]
