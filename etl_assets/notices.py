"""What a run did that is out of the ordinary: told on the screen, and not only in an asset's metadata."""

NOTICE = "notice"
"""The metadata of an asset under which it stands, as one sentence without a full stop."""
