"""A run, for people to look at: from the journal's state alone."""
