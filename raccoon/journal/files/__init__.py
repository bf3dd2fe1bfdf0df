"""The files of a journal: segments, the records in them, and what can be saved of damaged ones."""
