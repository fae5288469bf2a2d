"""The star schema: what is promised (`schema`), one function per table (`dimensions`, `facts`), and its assets."""
