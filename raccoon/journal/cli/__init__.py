"""The command `raccoon-journal`."""
