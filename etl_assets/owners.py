"""Whose things are where a project does not say. Apart from what shows them, since to declare a project takes no Dagster."""

OWNERS = ("team:data-platform",)
"""Whose the assets of a project are."""
SOURCE_OWNERS = ("team:operations",)
"""Whose what is outside is."""
