"""One file per outside system: the real one beside what stands in for it locally. No table of any database here."""
