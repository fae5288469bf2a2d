"""Other tools on the same source, side by side with this platform in one run.

`tool` says what a tool is to the comparison; `tools` has one file per tool, which runs in an environment of the tool's own
(`requirements`, `environments`). `measuring` runs them, `contents` compares what they wrote with the source, `report` makes the
table and the picture. None of them is a dependency of the platform.
"""
