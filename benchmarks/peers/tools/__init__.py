"""One file per tool: how it is set up, as its own documentation says, to be as quick as it can."""
